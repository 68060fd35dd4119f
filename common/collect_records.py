"""What coordinator and agents say of datasets: URL tables that become Parquet, and tools that work on what was collected.

A table's rows are sorted by server into *batches*; a batch is what a lease is for. The store keeps a row a batch, never a row a URL.
Sizes are bytes, durations seconds, rates requests/s. Column names, meanings and types are those of the reference tool (Imageomics
distributed-downloader), so that its users' notebooks keep working.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import quote, unquote


class Content(enum.StrEnum):
    """What the URLs of a table lead to."""

    IMAGE = "image"  # decoded, checked, resized
    ANY = "any"  # kept as bytes


class ImageEncoding(enum.StrEnum):
    """How an image is stored."""

    JPEG = "jpeg"
    WEBP = "webp"
    PNG = "png"
    ORIGINAL = "original"  # the bytes as served, checked but not resized
    RAW_BGR = "raw-bgr"  # height x width x 3 bytes, blue first: as the reference tool stores them


class Resampler(enum.StrEnum):
    """What makes images smaller. Each has bits of its own, so it belongs to the job, not to what an agent has installed."""

    PILLOW = "pillow"  # HAMMING
    OPENCV = "opencv"  # bilinear, exact: the same bits on every processor


class DatasetFormat(enum.StrEnum):
    """How the result of a batch is stored."""

    PARQUET = "parquet"
    WEBDATASET = "webdataset"
    FILES = "files"


class Restart(enum.StrEnum):
    """What is done again of a run that was there before."""

    NOTHING = ""
    PARTITIONING = "partitioning"  # the tables are read anew; finished batches stay as they are
    PROFILING = "profiling"  # each host is measured anew
    FAILED = "failed"  # the URLs of the errors tables are tried again, and the results merged


class ErrorCode(enum.IntEnum):
    """Codes of the errors table below the HTTP statuses."""

    NETWORK = -1  # no connection, a reset, a timeout, a redirect that leads nowhere
    NOT_AN_IMAGE = -2  # not a decodable image
    REFUSED = -3  # by policy: robots.txt, an ignored host, a private address
    TOO_LARGE = -4  # the body, or the number of pixels
    OPTED_OUT = -5  # the server says noai


SUCCESS: Final = 200
"""The code under which a tally counts successes: no error row carries it."""

REQUIRED_COLUMNS: Final = ("uuid", "identifier", "source_id")
OPTIONAL_COLUMNS: Final = ("license", "source", "title")


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectSpec:
    """What an agent must know of a dataset job. All of it is decided when the job is submitted."""

    tables: tuple[str, ...]  # files, globs, folders, as the coordinator sees them
    columns: tuple[tuple[str, str], ...] = ()  # (our name, the table's name) where they differ
    carry: tuple[str, ...] = ()  # further columns, by the table's name
    batch_size: int = 10_000
    content: Content = Content.IMAGE
    image_size: int = 224  # longest side in pixels; 0: as it is
    image_encoding: ImageEncoding = ImageEncoding.JPEG
    image_quality: int = 95
    resampler: Resampler = Resampler.OPENCV
    format: DatasetFormat = DatasetFormat.PARQUET
    row_group_bytes: int = 32 << 20
    request_timeout_s: float = 30.0
    idle_timeout_s: float = 10.0
    attempts: int = 5
    redirects_max: int = 10
    body_bytes_max: int = 64 << 20
    pixels_max: int = 179_000_000
    decode_timeout_s: float = 30.0
    decode_memory_bytes: int = 2 << 30
    robots: bool = False
    respect_ai_opt_out: bool = False
    allow_private_addresses: bool = False
    user_agent: str = ""
    rate: float = 3.0  # of a host that has none of its own; 0: no limit
    rate_multiplier: float = 0.5
    connections: int = 16  # requests of the fleet to one host at once
    backoff_initial_s: float = 60.0
    backoff_cap_s: float = 86_400.0
    host_patience_s: float = 1800.0
    robots_of: tuple[tuple[str, bool], ...] = ()  # hosts whose own setting differs from robots
    ignored: tuple[str, ...] = ()  # hosts that are not asked
    restart: Restart = Restart.NOTHING
    restart_codes: tuple[int, ...] = ()  # with FAILED: only these error codes; empty: all


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """What an agent must know of a tool's run over a dataset."""

    name: str
    load: str = ""  # a Python file with tools, as the agents see it
    load_digest: str = ""  # its sha256 in hex: all agents run the same code
    allow_unregistered: bool = False
    reset: str = ""  # "", "filtering", "scheduling", "runners": what is done again, and all after it
    options: tuple[tuple[str, str], ...] = ()
    workers: int = 0  # processes on an agent; 0: one for each core


@dataclass(frozen=True, kw_only=True, slots=True)
class HostProfile:
    """What a host was like at first contact. Absent figures are negative."""

    host: str
    reachable: bool
    protocol: str = ""  # "HTTP/1.1", "HTTP/1.1 TLSv1.3"
    status: int = 0  # of the first answer
    latency_s: float = -1.0  # until the first byte
    bytes_per_s: float = -1.0
    content_type: str = ""
    size: int = -1  # of the first body
    ranges: bool = False  # the server says that it serves byte ranges
    robots: str = ""  # "", "none", "allowed", "disallowed", "partly", "unreachable"
    crawl_delay_s: float = 0.0
    server: str = ""
    error: str = ""


def collect_spec_from(values: Mapping[str, Any]) -> CollectSpec:
    """The spec that `dataclasses.asdict` and JSON made these values of."""
    known = {key: _frozen(value) for key, value in values.items()}
    known["content"] = Content(known["content"])
    known["image_encoding"] = ImageEncoding(known["image_encoding"])
    known["resampler"] = Resampler(known.get("resampler", Resampler.PILLOW))  # jobs from before there was a choice
    known["format"] = DatasetFormat(known["format"])
    known["restart"] = Restart(known["restart"])
    return CollectSpec(**known)


def tool_spec_from(values: Mapping[str, Any]) -> ToolSpec:
    """The spec that `dataclasses.asdict` and JSON made these values of."""
    return ToolSpec(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples that they were."""
    return tuple(_frozen(item) for item in cast("list[Any]", value)) if isinstance(value, list) else value


def server_name(host: str) -> str:
    """A host, with its port if the URL names one, as a folder name: lower case, ``%3A`` for the colon."""
    return quote(host.lower(), safe=".-_~[]")


def host_of_server(name: str) -> str:
    """The host that `server_name` made a folder name of."""
    return unquote(name)


def batch_path(host: str, partition: int) -> str:
    """Where a batch's result lies below the destination: the name of its object in the store."""
    return f"images/server_name={server_name(host)}/partition_id={partition}"


def batch_of_path(path: str) -> tuple[str, int]:
    """Host and partition of a batch by its object's name. Raises ValueError for any other name."""
    folder, server, partition = path.split("/")
    if folder != "images" or not server.startswith("server_name=") or not partition.startswith("partition_id="):
        raise ValueError(path)
    return host_of_server(server.removeprefix("server_name=")), int(partition.removeprefix("partition_id="))
