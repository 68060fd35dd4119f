"""Settings: precedence and origins, every kind of bad input by name, and the texts made from the table."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from shoal.common import settings_docs
from shoal.common.errors import UsageError
from shoal.common.secrets import Secret
from shoal.common.settings import Settings, check_file, load_settings
from shoal.common.settings_sources import Rank, find_file, search_list, unknown_variables, variable_name
from shoal.common.settings_table import SECTIONS

KIB, MIB = 1024, 1024**2
REPO = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


def load(
    home: Path,
    text: str | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Settings with the text as ./shoal.toml, in an environment of its own."""
    if text is not None:
        (home / "work" / "shoal.toml").write_text(text)
    return load_settings(
        environ={"HOME": str(home / "home"), **(environ or {})},
        cwd=home / "work",
        overrides=overrides,
        config_file=config_file,
    )


def problems(home: Path, text: str) -> dict[str, str]:
    """The problems of a file: name -> cause and remedy."""
    path = home / "work" / "checked.toml"
    path.write_text(text)
    found = check_file(path, environ={"HOME": "/h"}, cwd=home)
    return {problem.name: f"{problem.cause} ({problem.remedy})" for problem in found}


# Precedence


def test_defaults(home: Path) -> None:
    settings = load(home)
    assert settings.coordinator.listen == "127.0.0.1:7070"
    assert settings.coordinator.lease_ttl == 30
    assert settings.agent.memory_limit == 512 * MIB
    assert settings.fetch.chunk_size is None
    assert settings.fetch.connections_per_host == 16
    assert settings.hub.endpoint == ("https://huggingface.co",)
    assert settings.hub.cache == home / "home/.cache/huggingface/hub"
    assert settings.coordinator.state == home / "home/.local/state/shoal"
    assert settings.agent.root == Path("/")
    assert settings.hub.token.resolve() is None
    assert settings.hosts == {}
    assert settings.config_file is None
    assert str(settings.origin_of("fetch.attempts")) == "default"


def test_settings_made_without_arguments_hold_the_defaults(home: Path) -> None:
    loaded, made = load(home), Settings()
    assert made.fetch == loaded.fetch
    assert made.security.allow == ()
    assert made.coordinator.lease_ttl == loaded.coordinator.lease_ttl


def test_command_line_beats_environment_beats_file_beats_default(home: Path) -> None:
    text = "[fetch]\nattempts = 4\nrate_limit = '1MiB/s'\nconnections_per_host = 2\nsync = false\n"
    environ = {"SHOAL_FETCH_ATTEMPTS": "5", "SHOAL_FETCH_RATE_LIMIT": "2MiB", "SHOAL_FETCH_SYNC": ""}
    settings = load(home, text, environ, {"fetch.attempts": "6", "fetch.rate_limit": None})
    assert settings.fetch.attempts == 6
    assert settings.fetch.rate_limit == 2 * MIB
    assert settings.fetch.connections_per_host == 2
    assert settings.fetch.sync is False  # a variable set to nothing counts as not set
    assert settings.fetch.read_timeout == 30
    origins = [settings.origin_of(f"fetch.{key}") for key in ("attempts", "rate_limit", "connections_per_host")]
    assert [origin.rank for origin in origins] == [Rank.COMMAND_LINE, Rank.ENVIRONMENT, Rank.FILE]
    assert str(origins[0]) == "command line"
    assert str(origins[1]) == "environment variable SHOAL_FETCH_RATE_LIMIT"
    assert str(origins[2]) == f"{home}/work/shoal.toml:4"


def test_the_first_file_found_is_the_one(home: Path) -> None:
    user = home / "home/.config/shoal/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("fetch.attempts = 7\nlog.level = 'debug'")
    assert load(home).fetch.attempts == 7
    settings = load(home, "fetch.attempts = 8")
    assert (settings.fetch.attempts, settings.log.level) == (8, "info")
    other = home / "other.toml"
    other.write_text("fetch.attempts = 9")
    settings = load(home, config_file=Path("../other.toml"))
    assert settings.fetch.attempts == 9
    xdg = {"XDG_CONFIG_HOME": "/xdg", "HOME": "/h"}
    assert [str(path) for path in search_list(None, xdg, Path("/w"))] == [
        "/w/shoal.toml",
        "/xdg/shoal/config.toml",
        "/etc/shoal/shoal.toml",
    ]
    assert find_file(Path("x"), xdg, Path("/w")) == Path("/w/x")


@pytest.mark.parametrize(
    ("environ", "name", "value"),
    [
        ({"HF_ENDPOINT": "https://mirror.example/hub/"}, "hub.endpoint", ("https://mirror.example/hub",)),
        ({"SHOAL_HUB_ENDPOINT": "https://a, http://b:8080"}, "hub.endpoint", ("https://a", "http://b:8080")),
        ({"HF_ENDPOINT": "https://a", "SHOAL_HUB_ENDPOINT": "https://b"}, "hub.endpoint", ("https://b",)),
        ({"HF_HOME": "/hf"}, "hub.cache", Path("/hf/hub")),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "/cache"}, "hub.cache", Path("/cache")),
        ({"HF_HOME": "$BASE/hf", "BASE": "/b"}, "hub.cache", Path("/b/hf/hub")),
        ({"XDG_CACHE_HOME": "/xdg"}, "hub.cache", Path("/xdg/huggingface/hub")),
        ({"HF_HUB_ENABLE_HF_TRANSFER": "1"}, "hub.backend", "hf_transfer"),
        ({"HF_HUB_ENABLE_HF_TRANSFER": "0"}, "hub.backend", "native"),
        ({"HF_HUB_ENABLE_HF_TRANSFER": "1", "SHOAL_HUB_BACKEND": "hub"}, "hub.backend", "hub"),
        ({"HF_HUB_OFFLINE": "yes"}, "hub.offline", True),
        ({"HF_HUB_OFFLINE": "0"}, "hub.offline", False),
        ({"LOG_LEVEL": "WARN"}, "log.level", "warning"),
        ({"NO_COLOR": "1"}, "log.color", "never"),
        ({"NO_COLOR": ""}, "log.color", "auto"),
        ({"SSL_CERT_FILE": "/ca.pem"}, "hub.ca_bundle", Path("/ca.pem")),
        ({"SSL_CERT_FILE": "/ca.pem"}, "fetch.ca_bundle", Path("/ca.pem")),
        ({"SHOAL_HUB_VERIFY_TLS": "off"}, "hub.verify_tls", False),
        ({"SHOAL_SECURITY_INSECURE": "true"}, "security.insecure", True),
        ({"SHOAL_SECURITY_ALLOW": "bigcode/*, acme/*,"}, "security.allow", ("bigcode/*", "acme/*")),
        ({"SHOAL_FETCH_REQUEST_RATE": "2.5"}, "fetch.request_rate", 2.5),
        ({"SHOAL_FETCH_CHUNK_SIZE": "8MiB"}, "fetch.chunk_size", 8 * MIB),
        ({"SHOAL_FETCH_CHUNK_SIZE": "AUTO"}, "fetch.chunk_size", None),
        ({"SHOAL_COORDINATOR_LISTEN": "[::1]:7070"}, "coordinator.listen", "[::1]:7070"),
        ({"SHOAL_FETCH_PROXY": "http://u:p@Proxy:3128"}, "fetch.proxy", "http://u:p@proxy:3128"),
    ],
)
def test_the_environment(home: Path, environ: dict[str, str], name: str, value: object) -> None:
    settings = load(home, environ=environ)
    section, _, key = name.partition(".")
    assert getattr(getattr(settings, section), key) == value


def test_paths_start_where_they_were_written(home: Path) -> None:
    etc = home / "etc"
    etc.mkdir()
    (etc / "shoal.toml").write_text('[security]\ntls_cert = "cert.pem"\ntls_key = "~/key.pem"\ntls_ca = "$D/ca.pem"\n')
    settings = load(
        home,
        environ={"D": "/d", "SHOAL_AGENT_DATA": "data"},
        overrides={"coordinator.state": "state"},
        config_file=etc / "shoal.toml",
    )
    assert settings.security.tls_cert == etc / "cert.pem"
    assert settings.security.tls_key == home / "home/key.pem"
    assert settings.security.tls_ca == Path("/d/ca.pem")
    assert settings.agent.data == home / "work/data"
    assert settings.coordinator.state == home / "work/state"


def test_hosts_have_a_table_each(home: Path) -> None:
    text = '[hosts."Example.org"]\nrate = 2\n[hosts."b.example:8080"]\nrate = 0.5\n'
    settings = load(home, text, overrides={"hosts.example.org.rate": 3, "hosts.c.example.rate": "9"})
    assert settings.hosts["example.org"].rate == 3
    assert settings.hosts["b.example:8080"].rate == 0.5
    assert settings.hosts["c.example"].rate == 9
    assert settings.origin_of("hosts.b.example:8080.rate").line == 4
    assert "hosts.c.example.rate" in {name for name, _, _ in settings.values()}


def test_a_line_is_found_whatever_stands_around_it(home: Path) -> None:
    lines = [
        "# attempts = 1",
        'log.level = "info"',
        "[security]",
        "deny = [",
        '  "attempts = 1",',
        "]",
        "[ fetch ] # here",
        "proxy = '''",
        "[fetch]",
        "attempts = 1",
        "'''",
        '"attempts" = "x"',
        "[hosts]",
        "'a.b'.rate = 'x'",
    ]
    (home / "x.toml").write_text("\n".join(lines))
    found = {problem.name: problem.origin.line for problem in check_file(home / "x.toml", environ={}, cwd=home)}
    assert found == {"fetch.proxy": 8, "fetch.attempts": 12, "hosts.a.b.rate": 14}
    settings = load(home, "\n".join(lines[:7]))
    assert settings.origin_of("log.level").line == 2
    assert settings.origin_of("security.deny").line == 4
    inline = load(home, "# x\nfetch = { attempts = 5, sync = false }\n")
    assert inline.origin_of("fetch.sync").line == 2


# Secrets


def test_a_token_comes_from_the_best_of_its_sources(home: Path) -> None:
    (home / "token").write_text("hf_from_file\n")
    file_text = "[hub]\ntoken_file = '../token'\n"
    assert load(home, file_text).hub.token.resolve() == Secret("hf_from_file")
    settings = load(home, file_text, {"HF_TOKEN": "hf_from_alias"})
    assert settings.hub.token.resolve() == Secret("hf_from_alias")
    assert str(settings.origin_of("hub.token")) == "environment variable HF_TOKEN"
    environ = {"HF_TOKEN": "hf_from_alias", "SHOAL_HUB_TOKEN_ENV": "MINE", "MINE": "hf_mine"}
    assert load(home, file_text, environ).hub.token.resolve() == Secret("hf_mine")
    overrides = {"hub.token_file": str(home / "token")}
    assert load(home, file_text, environ, overrides).hub.token.resolve() == Secret("hf_from_file")


def test_the_stored_login_is_the_last_source(home: Path) -> None:
    stored = home / "home/.cache/huggingface/token"
    assert load(home).hub.token.resolve() is None
    assert not load(home).hub.token.is_set
    stored.parent.mkdir(parents=True)
    stored.write_text("hf_stored")
    settings = load(home)
    assert settings.hub.token.resolve() == Secret("hf_stored")
    assert str(settings.origin_of("hub.token")) == f"stored login {stored}"
    assert load(home, environ={"HF_HOME": "/nowhere"}).hub.token.resolve() is None
    environ = {"HF_HOME": "/nowhere", "HF_TOKEN_PATH": str(stored)}
    assert load(home, environ=environ).hub.token.resolve() == Secret("hf_stored")
    assert load(home, "hub.token = 'hf_set'").hub.token.resolve() == Secret("hf_set")


def test_a_systemd_credential_is_found_by_its_bare_name(home: Path) -> None:
    (home / "credentials").mkdir()
    (home / "credentials/join").write_text("s3cret")
    environ = {"CREDENTIALS_DIRECTORY": str(home / "credentials")}
    settings = load(home, "security.token_file = 'join'", environ)
    assert settings.security.token.resolve() == Secret("s3cret")
    (home / "work/other").write_text("other")
    assert load(home, "security.token_file = 'other'", environ).security.token.resolve() == Secret("other")


def test_a_token_that_is_named_and_missing_is_an_error_where_it_is_used(home: Path) -> None:
    for text, expected in (
        ("hub.token_env = 'NOT_SET'", "NOT_SET"),
        ("hub.token_file = '/nowhere/token'", "/nowhere/token"),
    ):
        token = load(home, text).hub.token
        with pytest.raises(UsageError, match=expected):
            token.resolve()


def test_two_sources_in_one_place_contradict_each_other(home: Path) -> None:
    with pytest.raises(UsageError, match=r"hub\.token and hub\.token_file are given together"):
        load(home, "[hub]\ntoken = 'hf_x'\ntoken_file = 'y'\n")


def test_no_secret_shows_in_settings_or_errors(home: Path) -> None:
    settings = load(home, "[hub]\ntoken = 'hf_hunter2'\n", {"SHOAL_SECURITY_TOKEN": "hunter2"})
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{settings.hub.token} {settings.hub.token.value}"
    for text in (
        "hub.token = ['hunter2']",
        "hub.endpoint = 'https://u:hunter2@h'",
        "fetch.proxy = 'https://u:hunter2@h?x'",
    ):
        with pytest.raises(UsageError) as caught:
            load(home, text)
        assert "hunter2" not in str(caught.value)


# Bad input


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("[fetch]\natempts = 3", "fetch.atempts", "unknown key (did you mean fetch.attempts?)"),
        ("[fech]\nattempts = 3", "fech", "unknown section (did you mean fetch?)"),
        ("attempts = 3", "attempts", "unknown key (did you mean fetch.attempts?)"),
        ("[agent]\nconnections_per_host = 3", "agent.connections_per_host", "did you mean fetch.connections_per_host?"),
        ("[harvest]\nbatch_size = 1", "harvest", "unknown section"),
        ("[zzzzzz]\n", "zzzzzz", "unknown section (shoal config init writes a sample with every key)"),
        ("fetch = 3", "fetch", "it is a section, not a value: write [fetch]"),
        ("[hosts]\nrate = 3", "hosts.rate", '[hosts] holds one table per name, no values (write [hosts."NAME"] above it)'),
        ("[hosts.'a.b']\nrte = 3", "hosts.a.b.rte", "did you mean hosts.a.b.rate?"),
        ("[hosts.'a.b']\nrate = '3'", "hosts.a.b.rate", "'3' must be a number"),
        ("fetch.attempts = '3'", "fetch.attempts", "'3' must be a whole number from 1 to 1000"),
        ("fetch.attempts = 0", "fetch.attempts", "0 must be a whole number"),
        ("fetch.attempts = 3.0", "fetch.attempts", "3.0 must be a whole number"),
        ("fetch.attempts = true", "fetch.attempts", "True must be a whole number"),
        ("fetch.sync = 'yes'", "fetch.sync", "'yes' must be true or false"),
        ("fetch.sync = 1", "fetch.sync", "must be true or false"),
        ("fetch.rate_limit = '10 parsecs'", "fetch.rate_limit", "must be a rate such as"),
        ("fetch.rate_limit = -1", "fetch.rate_limit", "-1 must be a rate"),
        ("fetch.request_rate = nan", "fetch.request_rate", "nan must be a number"),
        ("fetch.request_rate = inf", "fetch.request_rate", "inf must be a number"),
        ("fetch.read_timeout = '3 fortnights'", "fetch.read_timeout", "must be a duration such as"),
        ("fetch.read_timeout = 0", "fetch.read_timeout", "must be above 0"),
        ("fetch.read_timeout = nan", "fetch.read_timeout", "must be a duration"),
        ("fetch.chunk_size = 'big'", "fetch.chunk_size", 'must be a size such as "64MiB" or "1.5GB", or "auto"'),
        ("fetch.chunk_size = 10", "fetch.chunk_size", "at least 64KiB"),
        ("agent.memory_limit = '1MiB'", "agent.memory_limit", "less than 64MiB"),
        ("agent.memory_limit = 1.5", "agent.memory_limit", "must be a size"),
        ("agent.name = 3", "agent.name", "3 must be text"),
        ("agent.name = \"a\\nb\"", "agent.name", "control characters"),
        ("agent.data = ''", "agent.data", "must not be empty"),
        ("agent.data = '$NOT_SET/x'", "agent.data", "NOT_SET, which is not set"),
        ("agent.allow_paths = ['/a', 3]", "agent.allow_paths", "item 2 must be text"),
        ("agent.allow_paths = [['/a']]", "agent.allow_paths", "must be text"),
        ("hub.endpoint = 'huggingface.co'", "hub.endpoint", "must be an http or https URL"),
        ("hub.endpoint = ['ftp://x']", "hub.endpoint", "must be an http or https URL"),
        ("hub.endpoint = 'https://a?x=1'", "hub.endpoint", "must be an http or https URL"),
        ("hub.endpoint = 'https://a:99999'", "hub.endpoint", "must name a host"),
        ("hub.endpoint = 'https://'", "hub.endpoint", "must name a host"),
        ("hub.endpoint = []", "hub.endpoint", "at least one is needed"),
        ("hub.endpoint = ['']", "hub.endpoint", "must not be empty"),
        ("hub.backend = 'wget'", "hub.backend", "'wget' must be one of native, hf_transfer, hub"),
        ("hub.token = 3", "hub.token", "the value must be text"),
        ("coordinator.listen = '7070'", "coordinator.listen", "must be HOST:PORT"),
        ("coordinator.listen = ''", "coordinator.listen", "must be HOST:PORT"),
        ("coordinator.listen = 'a b:1'", "coordinator.listen", "must be HOST:PORT"),
        ("coordinator.address = 'host:port'", "coordinator.address", "must be HOST:PORT"),
        ("coordinator.heartbeat = '20s'", "coordinator.heartbeat", "at most half of coordinator.lease_ttl"),
        ("coordinator.heartbeat = 0", "coordinator.heartbeat", "above 0"),
        ("security.tls_cert = 'c'", "security.tls_key", "needed together (set security.tls_key)"),
        ("security.tls_key = 'c'", "security.tls_cert", "needed together (set security.tls_cert)"),
        ("security.allow = {x = 1}", "security.allow", "must be text"),
        ("log.level = 'loud'", "log.level", "must be one of debug, info, warning, error"),
        ("log.level = 10", "log.level", "must be one of"),
    ],
)  # fmt: skip
def test_a_problem_in_the_file_is_found_by_name(home: Path, text: str, name: str, expected: str) -> None:
    found = problems(home, text)
    assert list(found) == [name]
    assert expected in found[name]
    with pytest.raises(UsageError) as caught:
        load(home, text)
    assert name in caught.value.thing
    assert "shoal.toml" in caught.value.thing


def test_all_problems_are_found_not_only_the_first(home: Path) -> None:
    text = "[fetch]\natempts = 3\nsync = 'x'\n[hub]\nbackend = 'x'\n[nope]\n"
    assert set(problems(home, text)) == {"fetch.atempts", "fetch.sync", "hub.backend", "nope"}
    with pytest.raises(UsageError, match="3 more: shoal config check lists them"):
        load(home, text)


def test_a_bad_value_names_where_it_came_from(home: Path) -> None:
    with pytest.raises(UsageError, match=r"fetch\.attempts \(environment variable SHOAL_FETCH_ATTEMPTS\): 'many'"):
        load(home, environ={"SHOAL_FETCH_ATTEMPTS": "many"})
    with pytest.raises(UsageError, match=r"hub\.endpoint \(environment variable HF_ENDPOINT\)"):
        load(home, environ={"HF_ENDPOINT": "nowhere"})
    with pytest.raises(UsageError, match=r"fetch\.attempts \(command line\)"):
        load(home, overrides={"fetch.attempts": "many"})
    with pytest.raises(UsageError, match=r"fetch\.attempts \(.*shoal\.toml:2\)"):
        load(home, "[fetch]\nattempts = 'many'")


@pytest.mark.parametrize("name", ["fetch.nope", "nope.attempts", "attempts", "hosts.rate", "fetch.a.attempts", ""])
def test_an_override_that_is_no_setting_is_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="unknown key"):
        load(home, overrides={name: "1"})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[fetch\n", "it is not TOML.*line 1"),
        (b"a = 1\na = 2\n", "it is not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (2 * MIB), "too large"),
        (b"a = " + b"[" * 200_000, "not TOML"),
    ],
)
def test_a_file_that_is_no_configuration(home: Path, data: bytes, expected: str) -> None:
    (home / "work/shoal.toml").write_bytes(data)
    with pytest.raises(UsageError, match=expected):
        load(home)


def test_a_named_file_must_be_there(home: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: No such file"):
        load(home, "fetch.attempts = 9", config_file=Path("nowhere.toml"))
    with pytest.raises(UsageError, match="Is a directory"):
        load(home, config_file=home)


def test_a_byte_order_mark_is_no_problem(home: Path) -> None:
    (home / "work/shoal.toml").write_bytes(b"\xef\xbb\xbffetch.attempts = 9\r\n")
    assert load(home).fetch.attempts == 9


def test_unknown_variables_are_told_apart() -> None:
    environ = {
        "SHOAL_FETCH_ATTEMPTS": "1",
        "SHOAL_FETCH_ATEMPTS": "1",
        "SHOAL_COORDINATOR_PORT": "tcp://1",
        "SHOAL_X": "1",
    }
    assert unknown_variables(environ) == ["SHOAL_COORDINATOR_PORT", "SHOAL_FETCH_ATEMPTS"]


# The table and what is made of it


def test_every_section_of_the_table_is_a_field_of_the_settings() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)} - {"config_file", "origins"}
    assert fields == {section.name for section in SECTIONS}
    for section in SECTIONS:
        value = getattr(Settings(), section.name)
        assert value == {} if section.named else isinstance(value, section.cls)


def test_every_key_is_documented_once_and_has_a_variable_of_its_own() -> None:
    page = settings_docs.page()
    names: set[str] = set()
    for section in SECTIONS:
        for key in section.table():
            assert key.help.endswith(".")
            assert re.search(rf"^\| `{key.name}` \|", page, re.MULTILINE)
            names.add(variable_name(section, key))
    assert len(names) == sum(len(section.table()) for section in SECTIONS)


def test_the_page_is_fresh() -> None:
    written = (REPO / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == settings_docs.page(), "run: python -m shoal.common.settings_docs docs/configuration.md"


def test_the_sample_is_valid_and_holds_every_default(home: Path) -> None:
    sample = settings_docs.sample()
    assert all(not table for table in tomllib.loads(sample).values())
    tables = sample.partition("\n\n")[2]
    uncommented = re.sub(r"^# (?=[a-z_]+ = |\[)", "", tables, flags=re.MULTILINE).replace("NAME", "example.org")
    assert problems(home, uncommented) == {}
    settings = load(home, uncommented)
    defaults = load(home, "")
    for section in SECTIONS:
        for key in section.table():
            if not section.named and not key.kind.secret:
                assert getattr(getattr(settings, section.name), key.name) == getattr(
                    getattr(defaults, section.name), key.name
                )
    assert settings.hosts["example.org"].rate == 0


@pytest.mark.parametrize("value", ['a"b\\c\n\x7f\u2028é', ["a", 1], True, 0.5, 3, []])
def test_values_are_written_as_toml(value: object) -> None:
    assert tomllib.loads(f"x = {settings_docs.toml_value(value)}") == {"x": value}
    assert json.dumps(value)
