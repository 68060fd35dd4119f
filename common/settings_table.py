"""The table of settings, as dataclasses: one field is one key, with its kind, default, help and environment aliases.

Everything else is made from this table: what the file, the environment and the command line may set, the commented
sample of ``shoal config init``, ``docs/configuration.md`` and the test that they agree. To add a key, add a field; to
add a section, add a class, an entry of SECTIONS and a field of ``settings.Settings``.
"""

# ruff: noqa: RUF009  # setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .secrets import SecretRef
from .settings_collect import CollectSettings, ToolsSettings
from .settings_fields import Alias, Section, setting
from .settings_kinds import (
    ADDRESS,
    BOOLEAN,
    DURATION,
    OPTIONAL_ADDRESS,
    OPTIONAL_PATH,
    PATH,
    RATE,
    SECRET,
    SIZE,
    TEXT,
    auto_or,
    choice,
    integer,
    list_of,
    number,
    url,
)
from .settings_library import LibrarySettings
from .settings_nas import NasSettings
from .settings_quota import QuotaSettings
from .settings_web import WebSettings


def _hub_of_home(home: str) -> object:
    return f"{home.rstrip('/')}/hub"


def _never(_text: str) -> object:
    return "never"  # whatever it is set to: no-color.org


def _when_true(value: object) -> Callable[[str], object | None]:
    # huggingface_hub's rule for its own switches.
    return lambda text: value if text.strip().upper() in {"1", "ON", "YES", "TRUE"} else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorSettings:
    listen: str = setting(ADDRESS, "127.0.0.1:7070", "Where the coordinator listens for agents and clients (gRPC).")
    address: str = setting(
        OPTIONAL_ADDRESS,
        "",
        "The coordinator that agents and clients connect to. Empty: embedded, on this machine alone.",
    )
    state: Path = setting(
        PATH, "$XDG_STATE_HOME/shoal", "Folder of the coordinator's database. On a local disk, never on NFS or Lustre."
    )
    tables: Path | None = setting(
        OPTIONAL_PATH,
        "",
        "Folder of partitioned URL tables. Empty: in the state folder. It may lie on a shared file system.",
    )
    lease_ttl: float = setting(DURATION, "30s", "An agent that was silent for this long loses its work to the others.")
    heartbeat: float = setting(DURATION, "5s", "How often an agent reports. At most half of lease_ttl.")
    drain_timeout: float = setting(DURATION, "30s", "How long a stopping daemon waits for work in progress.")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSettings:
    name: str = setting(TEXT, "", "The agent's name in the fleet. Empty: the name of the machine.")
    data: Path = setting(PATH, "$XDG_STATE_HOME/shoal/agent", "Folder of the agent's journal. One per agent.")
    root: Path = setting(PATH, "/", "Destinations are taken below this folder.")
    allow_paths: tuple[Path, ...] = setting(
        list_of(PATH), [], "Folders that the agent will write to. Empty: every folder below root."
    )
    memory_limit: int = setting(SIZE, "512MiB", "Memory of the agent; near the limit new work waits.")
    zone: str = setting(TEXT, "", "Where the agent is, such as its rack: peers of the same zone are asked first.")
    peer_listen: str = setting(
        OPTIONAL_ADDRESS,
        "",
        "Where other agents fetch chunks from this one. Empty: port 7072, or any free one, of the address that the coordinator sees.",
    )
    peer_address: str = setting(
        OPTIONAL_ADDRESS, "", "What other agents are told to connect to. Empty: where the agent listens."
    )
    upload_slots: int = setting(
        integer(0, 10_000), 8, "Chunks that the agent sends to peers at once. 0: it only takes."
    )
    download_slots: int = setting(integer(1, 10_000), 16, "Chunks that the agent takes at once.")
    upload_rate: int = setting(RATE, "0", "Bytes per second that the agent sends to peers. 0: no limit.")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSettings:
    endpoint: tuple[str, ...] = setting(
        list_of(url()),
        ["https://huggingface.co"],
        "Hub endpoints, in order of preference; the next one is used when one fails.",
        aliases=(Alias("HF_ENDPOINT"),),
    )
    token: SecretRef = setting(
        SECRET,
        "",
        "Hub token. Without one, the login that the Hub's own command line stored is used.",
        aliases=(Alias("HF_TOKEN"),),
    )
    token_env: str = setting(TEXT, "", "Name of the environment variable that holds the Hub token.")
    token_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the Hub token.")
    verify_tls: bool = setting(BOOLEAN, True, "Check TLS certificates of the Hub and of its file servers.")
    ca_bundle: Path | None = setting(
        OPTIONAL_PATH,
        "",
        "PEM file of the authorities to trust for the Hub. Empty: the system's.",
        aliases=(Alias("SSL_CERT_FILE"),),
    )
    backend: Literal["native", "hf_transfer", "hub"] = setting(
        choice("native", "hf_transfer", "hub"),
        "native",
        "What fetches Hub files: Shoal's own engine, hf_transfer, or the Hub's client library.",
        aliases=(Alias("HF_HUB_ENABLE_HF_TRANSFER", _when_true("hf_transfer")),),
    )
    cache: Path = setting(
        PATH,
        "$XDG_CACHE_HOME/huggingface/hub",
        "The Hub cache that `--to hf-cache` writes to.",
        aliases=(Alias("HF_HUB_CACHE"), Alias("HF_HOME", _hub_of_home)),
    )
    offline: bool = setting(
        BOOLEAN, False, "Never ask the Hub.", aliases=(Alias("HF_HUB_OFFLINE", _when_true(True)),)
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    endpoint: str = setting(
        url(optional=True), "", "URL of the store. Empty: AWS, or what the AWS configuration names."
    )
    region: str = setting(TEXT, "", "Region of the store. Empty: as the AWS configuration or the bucket says.")
    bucket: str = setting(TEXT, "", "The one bucket that the profile may be used for. Empty: any.")
    path_style: bool | None = setting(
        auto_or(BOOLEAN),
        "auto",
        "URLs as ENDPOINT/BUCKET/KEY instead of BUCKET.ENDPOINT/KEY. auto: yes where an endpoint is set here.",
    )
    access_key_id: SecretRef = setting(SECRET, "", "Access key. Without one, the usual AWS credential chain is used.")
    access_key_id_env: str = setting(TEXT, "", "Name of the environment variable that holds the access key.")
    access_key_id_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the access key.")
    secret_access_key: SecretRef = setting(SECRET, "", "Secret key.")
    secret_access_key_env: str = setting(TEXT, "", "Name of the environment variable that holds the secret key.")
    secret_access_key_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the secret key.")
    session_token: SecretRef = setting(SECRET, "", "Session token of temporary credentials.")
    session_token_env: str = setting(TEXT, "", "Name of the environment variable that holds the session token.")
    session_token_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the session token.")
    anonymous: bool = setting(BOOLEAN, False, "Ask without credentials, as public buckets allow.")
    verify_tls: bool = setting(BOOLEAN, True, "Check TLS certificates of the store.")
    ca_bundle: Path | None = setting(
        OPTIONAL_PATH, "", "PEM file of the authorities to trust for the store. Empty: the system's."
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchSettings:
    chunk_size: int | None = setting(auto_or(SIZE), "auto", "Size of the pieces that a big file is split into.")
    attempts: int = setting(integer(1, 1000), 3, "How often an object is tried before it has failed for good.")
    connections_per_host: int = setting(integer(1, 1024), 16, "Connections of one agent to one host.")
    rate_limit: int = setting(RATE, "0", "Bytes per second of one agent, all hosts together. 0: no limit.")
    request_rate: float = setting(number(0, 1e6), 0, "Requests per second of the fleet to one host. 0: no limit.")
    connect_timeout: float = setting(DURATION, "10s", "How long connecting, TLS included, may take.")
    read_timeout: float = setting(DURATION, "30s", "How long a server may be silent.")
    transient_retries: int = setting(
        integer(0, 1000), 8, "Retries after 5xx, resets and timeouts, with backoff, within one attempt."
    )
    sync: bool = setting(BOOLEAN, True, "Sync a file to disk before it gets its final name.")
    lock_expiry: float = setting(
        DURATION,
        "90s",
        "Silence after which other runs into the same folder take over what a run was fetching. Above NFS's caches (60s).",
    )
    unpack_bytes_max: int = setting(SIZE, "1TiB", "An archive whose files are larger than this together is refused.")
    unpack_ratio_max: int = setting(
        integer(1, 1_000_000),
        200,
        "An archive whose files are larger than this many times the archive itself is refused.",
    )
    unpack_files_max: int = setting(
        integer(1, 1_000_000_000), 2_000_000, "An archive that holds more files and folders is refused."
    )
    verify_tls: bool = setting(BOOLEAN, True, "Check TLS certificates of https:// sources.")
    ca_bundle: Path | None = setting(
        OPTIONAL_PATH,
        "",
        "PEM file of the authorities to trust for https:// sources. Empty: the system's.",
        aliases=(Alias("SSL_CERT_FILE"),),
    )
    proxy: str = setting(
        url(optional=True, user_info=True),
        "",
        "HTTP proxy for all sources. Empty: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY decide.",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmSettings:
    chunk_size: int | None = setting(
        auto_or(SIZE),
        "auto",
        "Size of the chunks that agents pass on. auto: by the size of the objects and of the fleet.",
    )
    verify: Literal["once", "every-agent"] = setting(
        choice("once", "every-agent"),
        "once",
        "Who computes an object's published digest: one agent, which vouches for its chunks to the others, or each.",
    )
    origin_connections: int = setting(
        integer(1, 100_000), 64, "Chunks that the whole fleet takes from the origin at once."
    )
    tls: bool = setting(BOOLEAN, False, "Agents speak TLS with each other, with security.tls_cert and tls_ca.")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSettings:
    rate: float = setting(number(0, 1e6), 0, "Requests per second of the whole fleet to this host. 0: no limit.")
    connections: int = setting(integer(0, 10_000), 0, "Requests of the whole fleet to this host at once. 0: no limit.")
    robots: bool | None = setting(
        auto_or(BOOLEAN),
        "auto",
        "Obey this host's robots.txt when a URL table is collected. auto: as collect.robots says.",
    )
    ignore: bool = setting(BOOLEAN, False, "Ask nothing of this host when a URL table is collected.")


@dataclass(frozen=True, kw_only=True, slots=True)
class SecuritySettings:
    allow: tuple[str, ...] = setting(
        list_of(TEXT), [], 'Repos and hosts that may be fetched, as globs ("bigcode/*"). Empty: all.'
    )
    deny: tuple[str, ...] = setting(list_of(TEXT), [], "Repos and hosts that are refused, as globs. Wins over allow.")
    https_only: bool = setting(BOOLEAN, False, "Refuse every source and redirect that is not https.")
    max_object_size: int = setting(SIZE, "0", "Files that are larger are refused. 0: no limit.")
    max_job_size: int = setting(SIZE, "0", "Jobs whose files are larger together are refused. 0: no limit.")
    allow_licenses: tuple[str, ...] = setting(
        list_of(TEXT), [], 'Licences of Hub repos that may be fetched, as globs ("apache-2.0", "cc-by-*"). Empty: all.'
    )
    deny_licenses: tuple[str, ...] = setting(
        list_of(TEXT), [], "Licences of Hub repos that are refused, as globs. Wins over allow_licenses."
    )
    unknown_license: Literal["allow", "refuse"] = setting(
        choice("allow", "refuse"), "refuse", "A Hub repo that names no licence, where licences are ruled."
    )
    insecure: bool = setting(BOOLEAN, False, "Allow a non-loopback address without TLS and credentials.")
    tls_cert: Path | None = setting(OPTIONAL_PATH, "", "PEM certificate of this coordinator, agent or client.")
    tls_key: Path | None = setting(OPTIONAL_PATH, "", "PEM private key of tls_cert.")
    tls_ca: Path | None = setting(
        OPTIONAL_PATH, "", "PEM authorities that the coordinator's certificate must come from."
    )
    client_ca: Path | None = setting(
        OPTIONAL_PATH, "", "PEM authorities that agents' and clients' certificates must come from (mutual TLS)."
    )
    token: SecretRef = setting(SECRET, "", "Credential that an agent or client presents to the coordinator.")
    token_env: str = setting(TEXT, "", "Name of the environment variable that holds the credential.")
    token_file: str = setting(TEXT, "", "File, or name of a systemd credential, that holds the credential.")


_LEVEL_SYNONYMS: dict[str, Literal["debug", "info", "warning", "error"]] = {
    "warn": "warning",
    "trace": "debug",
    "notset": "debug",
    "critical": "error",
    "fatal": "error",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    level: Literal["debug", "info", "warning", "error"] = setting(
        choice("debug", "info", "warning", "error", synonyms=_LEVEL_SYNONYMS),
        "info",
        "The least severe events that are logged.",
        aliases=(Alias("LOG_LEVEL"),),
    )
    format: Literal["console", "json"] = setting(
        choice("console", "json"), "console", "Log lines for people, or one JSON object a line."
    )
    color: Literal["auto", "always", "never"] = setting(
        choice("auto", "always", "never"),
        "auto",
        "Colours on the terminal.",
        aliases=(Alias("NO_COLOR", _never),),
    )


SECTIONS: tuple[Section, ...] = (
    Section(name="coordinator", cls=CoordinatorSettings, help="The coordinator, and how to reach it."),
    Section(name="agent", cls=AgentSettings, help="An agent on this machine."),
    Section(name="hub", cls=HubSettings, help="The Hub: hf:// sources and the Hub cache."),
    Section(name="s3", cls=S3Settings, help="S3-compatible stores: one table per profile.", named=True),
    Section(name="fetch", cls=FetchSettings, help="How bytes are fetched, whatever the source."),
    Section(name="swarm", cls=SwarmSettings, help="Copies for every agent: how chunks travel from agent to agent."),
    Section(name="nas", cls=NasSettings, help="Copies of finished files on a NAS, beside the downloads."),
    Section(name="collect", cls=CollectSettings, help="URL tables that become datasets: shoal collect."),
    Section(name="tools", cls=ToolsSettings, help="Post-processing of collected data: shoal tools."),
    Section(name="hosts", cls=HostSettings, help="Budgets of single hosts, for the whole fleet.", named=True),
    Section(name="library", cls=LibrarySettings, help="What is on disk: shoal models, and the web page's library."),
    Section(name="web", cls=WebSettings, help="The web page and the REST API: shoal coordinator --web."),
    Section(name="security", cls=SecuritySettings, help="What is allowed, TLS, and credentials of the fleet."),
    Section(name="quota", cls=QuotaSettings, help="How much each user of a coordinator may fetch."),
    Section(name="log", cls=LogSettings, help="Logs."),
)
