"""The command line's grammar, and how it becomes settings and requests."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pytest

from shoal.client.main import overrides
from shoal.client.options import build_parser
from shoal.client.transfer import read_requests
from shoal.common.errors import UsageError
from shoal.common.records import Layout
from shoal.common.settings import Settings, load_settings
from shoal.common.settings_table import SECTIONS


def parse(*arguments: str) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def requests(*arguments: str) -> list[Any]:
    return read_requests(parse("get", *arguments), Settings())


def test_global_options_before_and_after() -> None:
    expected = {"log.level": "debug", "coordinator.address": "c:1", "security.insecure": True}
    flags = ["--log-level", "debug", "--coordinator", "c:1", "--insecure"]
    assert overrides(parse(*flags, "jobs")) == expected
    assert overrides(parse("jobs", *flags)) == expected
    assert overrides(parse(*flags[:2], "jobs", *flags[2:])) == expected
    assert overrides(parse("jobs")) == {}


def test_set_collects_from_both_sides_of_the_command() -> None:
    options = parse("--set", "fetch.attempts=1", "get", "--set", "hub.offline=true", "x", "--set", "log.level = error")
    assert overrides(options) == {"fetch.attempts": "1", "hub.offline": "true", "log.level": " error"}
    assert overrides(parse("get", "x")) == {}, "what one line collected is not there for the next"
    with pytest.raises(UsageError, match="KEY=VALUE"):
        overrides(parse("get", "x", "--set", "fetch.attempts"))


def test_every_flag_names_a_setting_that_exists() -> None:
    known = {f"{section.name}.{key.name}" for section in SECTIONS for key in section.table()}
    found = overrides(
        parse(
            *["--log-level", "info", "--log-format", "json", "--coordinator", "c:1", "--insecure", "agent"],
            *["--name", "n", "--data", "d", "--root", "r"],
        )
    ) | overrides(parse("coordinator", "--listen", "h:1", "--state", "s"))
    assert set(found) <= known
    assert {"agent.name", "agent.data", "agent.root", "coordinator.listen", "coordinator.state"} <= set(found)


def test_the_name_of_a_job_is_not_the_name_of_an_agent() -> None:
    assert overrides(parse("get", "x", "--name", "n")) == {}


@pytest.mark.parametrize(
    "bad", [["get", "--unknown"], ["get", "x", "--inc", "y"], ["nonsense"], ["config"], ["verify"]]
)
def test_what_is_not_in_the_grammar_exits_with_2(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*bad)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_hub_sources_go_to_the_cache_and_others_to_the_working_directory() -> None:
    hub, other = requests("acme/tiny", "https://host/x.bin", "hf://datasets/acme/d")
    assert (hub.layout, hub.destination) == (Layout.HUB_CACHE, "")
    assert hub.uris == ("hf://acme/tiny", "hf://datasets/acme/d")
    assert (other.layout, other.destination) == (Layout.FOLDER, str(Path.cwd()))
    assert other.uris == ("https://host/x.bin",)


def test_a_destination_is_one_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (request,) = requests("acme/tiny", "https://host/x.bin", "--to", "models")
    assert (request.layout, request.destination) == (Layout.FOLDER, f"{tmp_path}/models")
    assert requests("acme/tiny", "--to", "~/models")[0].destination == "/home/me/models"
    assert requests("acme/tiny", "--to", "/abs")[0].destination == "/abs"
    assert requests("acme/tiny", "--to", "hf-cache")[0].layout is Layout.HUB_CACHE
    assert requests("acme/tiny", "--to", "./hf-cache")[0].destination == f"{tmp_path}/hf-cache"
    with pytest.raises(UsageError, match="Hub"):
        requests("https://host/x.bin", "--to", "hf-cache")


def test_what_a_request_carries() -> None:
    (request,) = requests(
        *["acme/tiny", "--include", "*.json", "--include", "a/*", "--exclude", "*.bin", "--revision", "v1", "--force"],
        *["--priority", "5", "--name", "mine"],
    )
    assert (request.include, request.exclude) == (("*.json", "a/*"), ("*.bin",))
    assert (request.revision, request.force, request.priority, request.name) == ("v1", True, 5, "mine")


def test_sources_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("# c\nacme/a\n\nacme/b # x\nacme/a\n"))
    (request,) = requests("acme/c", "--from-file", "-")
    assert request.uris == ("hf://acme/c", "hf://acme/a", "hf://acme/b")


def test_no_source_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no source"):
        requests()


def test_mirrors_count_as_hubs() -> None:
    settings = load_settings(environ={"HF_ENDPOINT": "http://mirror:8080/hf"}, cwd=Path("/"))
    (request,) = read_requests(parse("get", "http://mirror:8080/hf/acme/tiny"), settings)
    assert request.uris == ("hf://acme/tiny",)
