"""The command line from the outside: its grammar, its exit codes, configuration, verify and clean, what needs a coordinator."""

from __future__ import annotations

import json
import os
import pty
import re
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shoal.client.options import build_parser
from support.cli import Shoal, delivered, installed
from support.contents import SyntheticFile, read_all
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

MIB = 1 << 20
FILES: Mapping[str, bytes] = {
    "config.json": b'{"a": 1}',
    "sub/vocab.txt": b"[PAD]\n" * 100,
    "model.safetensors": read_all(SyntheticFile(5 * MIB, seed=1)),
}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        yield stand_in


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person")


def commands() -> list[str]:
    parser = build_parser()
    (choices,) = [action.choices for action in parser._actions if action.dest == "command"]  # pyright: ignore[reportPrivateUsage]
    assert choices is not None
    return list(choices)


# --- grammar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_of_every_command(shoal: Shoal, command: str) -> None:
    run = shoal.run(*[part for part in [command, "--help"] if part]).expect(0)
    assert run.stdout.startswith(f"usage: shoal {command}".rstrip())
    assert "--config" in run.stdout
    assert run.stderr == ""


def test_help_and_version_load_nothing_heavy(shoal: Shoal) -> None:
    """Start-up time is what is imported: the clock of a busy machine proves nothing, the list of modules does."""
    for argument in ("--help", "--version"):
        run = shoal.run(argument, environ={"PYTHONPROFILEIMPORTTIME": "1"}).expect(0)
        imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
        heavy = {
            "grpc",
            "google.protobuf",
            "structlog",
            "rich",
            "aiohttp",
            "huggingface_hub",
            "ssl",
            "asyncio",
            "sqlite3",
        }
        assert imported & heavy == set()
        assert "shoal.client.main" in imported, "the list of modules is not there: the test proves nothing"


def test_get_loads_neither_grpc_nor_the_hub_client(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    environ = {"PYTHONPROFILEIMPORTTIME": "1", "HF_ENDPOINT": hub.url}
    run = shoal.get("acme/tiny", "--to", tmp_path / "to", environ=environ)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert imported & {"grpc", "google.protobuf", "aiohttp", "huggingface_hub", "rich", "httpx", "requests"} == set()


def test_version(shoal: Shoal) -> None:
    assert re.fullmatch(r"shoal \d+\.\d+\.\d+\S*\n", shoal.run("--version").expect(0).stdout)
    assert shoal.run("-V").expect(0).stdout == shoal.run("--version").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--no-such-option"],
        ["no-such-command"],
        ["get"],
        ["get", "acme/tiny", "--no-such-option"],
        ["get", "acme/tiny", "--inc", "*"],
        ["get", "acme/tiny", "--deliver", "nonsense"],
        ["get", "acme/tiny", "--priority", "high"],
        ["verify"],
        ["config"],
        ["config", "nonsense"],
        ["get", "acme/tiny", "--set", "fetch.attempts"],
        ["get", "acme/tiny", "--set", "fetch.attemps=5"],
        ["get", "acme/tiny", "--set", "fetch.attempts=many"],
        ["get", "acme/tiny", "--log-level", "loud"],
        ["get", "acme/tiny", "--config", "absent.toml"],
        ["get", "https://127.0.0.1:1/x", "--to", "hf-cache"],
        ["submit", "acme/tiny"],
        ["clean", ".", "--older-than", "soon"],
    ],
)
def test_usage_errors(shoal: Shoal, arguments: list[str]) -> None:
    run = shoal.run(*arguments, environ={"HF_ENDPOINT": "http://127.0.0.1:1"}).expect(2)
    assert run.stdout == ""
    assert run.stderr != ""


def test_global_options_stand_before_and_after_the_command(shoal: Shoal) -> None:
    (shoal.cwd / "my.toml").write_text("[fetch]\nattempts = 7\n")

    def values(*arguments: str) -> dict[str, object]:
        settings = shoal.run(*arguments).expect(0).document()["settings"]
        return {name: setting["value"] for name, setting in settings.items()}

    for arguments in (
        ["--config", "my.toml", "--log-level", "debug", "config", "show", "--json"],
        ["config", "--config", "my.toml", "--log-level", "debug", "show", "--json"],
        ["config", "show", "--json", "--config", "my.toml", "--log-level", "debug"],
        ["--config", "my.toml", "config", "show", "--json", "--log-level", "debug"],
    ):
        found = values(*arguments)
        assert (found["fetch.attempts"], found["log.level"]) == (7, "debug"), arguments
    found = values(
        "--set", "fetch.attempts=4", "config", "--set", "log.format=json", "show", "--json", "--set", "hub.offline=true"
    )
    assert (found["fetch.attempts"], found["log.format"], found["hub.offline"]) == (4, "json", True)
    assert values("--log-level", "debug", "config", "show", "--json", "--log-level", "error")["log.level"] == "error"


def test_errors_as_json(shoal: Shoal) -> None:
    run = shoal.run("verify", "absent", "--json").expect(3)
    assert run.document()["error"]["code"] == "not-found"
    assert "absent" in run.stderr


# --- configuration --------------------------------------------------------------------------------------------------


def test_config_init_check_show_path(shoal: Shoal) -> None:
    run = shoal.run("config", "init").expect(0)
    path = shoal.cwd / "shoal.toml"
    assert str(path) in run.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "shoal.toml" in shoal.run("config", "init").expect(2).stderr
    shoal.run("config", "init", "--force").expect(0)
    shoal.run("config", "init", "other.toml").expect(0)
    shoal.run("config", "check").expect(0)
    shoal.run("config", "check", "other.toml").expect(0)
    path.write_text("[fetch]\nattempts = 5\n")
    shown = shoal.run("config", "show", environ={"SHOAL_LOG_LEVEL": "error"}).expect(0).stdout
    lines = {line.partition("  #")[0].strip(): line.partition("# ")[2] for line in shown.splitlines()}
    assert lines["fetch.attempts = 5"] == f"{path}:2"
    assert lines['log.level = "error"'] == "environment variable SHOAL_LOG_LEVEL"
    assert f"{path}  # used" in shoal.run("config", "path").expect(0).stdout
    path.unlink()
    (shoal.home / "config/shoal").mkdir(parents=True)
    (shoal.home / "config/shoal/config.toml").write_text("[fetch]\nattempts = 6\n")
    assert "fetch.attempts = 6" in shoal.run("config", "show").expect(0).stdout


def test_bad_configuration_is_named_by_every_command(shoal: Shoal) -> None:
    (shoal.cwd / "shoal.toml").write_text("[fetch]\natempts = 5\nread_timeout = 'soon'\n")
    for arguments in (["get", "acme/tiny"], ["config", "show"], ["verify", "."], ["jobs"]):
        run = shoal.run(*arguments).expect(2)
        assert "fetch.atempts" in run.stderr and "fetch.attempts" in run.stderr
    checked = shoal.run("config", "check").expect(2).stdout
    assert "shoal.toml:2: fetch.atempts" in checked and "shoal.toml:3: fetch.read_timeout" in checked
    shoal.run("config", "path").expect(0)
    (shoal.cwd / "shoal.toml").write_text("[fetch\n")
    assert "TOML" in shoal.run("get", "acme/tiny").expect(2).stderr


def test_log_level_and_format(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": hub.url}
    quiet = shoal.get("acme/tiny", "--to", tmp_path / "a", environ=environ)
    assert quiet.stderr == "hf://acme/tiny: done, 3 of 3 files fetched (5MiB)\n"
    run = shoal.get(
        "acme/tiny", "--to", tmp_path / "b", "--log-level", "debug", "--log-format", "json", environ=environ
    )
    events = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    assert len(events) > 2
    assert all(event["action"] and event["level"] and event["timestamp"] for event in events)
    told = shoal.get("acme/tiny", "--to", tmp_path / "c", environ={**environ, "LOG_LEVEL": "info"})
    assert "job.ended" in told.stderr and "\x1b" not in told.stderr


# --- verify and clean -----------------------------------------------------------------------------------------------


@pytest.fixture
def fetched(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> Path:
    shoal.environ["HF_ENDPOINT"] = hub.url
    shoal.get("hf://acme/tiny", "--to", tmp_path / "to")
    hub.log.clear()
    return tmp_path / "to"


def test_verify_finds_damage_and_repair_mends_it(shoal: Shoal, hub: StandInHub, fetched: Path) -> None:
    assert "3 files checked" in shoal.run("verify", fetched).expect(0).stderr
    data = bytearray(FILES["model.safetensors"])
    data[MIB] ^= 1
    times = (fetched / "model.safetensors").stat()
    (fetched / "model.safetensors").write_bytes(data)
    os.utime(fetched / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    (fetched / "sub/vocab.txt").unlink()
    (fetched / "mine.txt").write_text("not in the manifest")
    run = shoal.run("verify", fetched).expect(6)
    assert "model.safetensors" in run.stderr and "sub/vocab.txt" in run.stderr and "config.json" not in run.stderr
    document = shoal.run("verify", fetched, "--json").expect(6).document()
    assert {(problem["kind"], problem["path"]) for problem in document["problems"]} == {
        ("digest", "model.safetensors"),
        ("missing", "sub/vocab.txt"),
    }
    assert len(hub.log.records) == 0
    repaired = shoal.run("verify", fetched, "--repair", "--json").expect(0).document()
    assert repaired["repaired"] is True
    assert delivered(fetched) == {**FILES, "mine.txt": b"not in the manifest"}
    assert hub.log.count(kind="resolve", path="config.json") == 0
    shoal.run("verify", fetched).expect(0)


@pytest.mark.parametrize("source", ["hf://acme/tiny", "hf://acme/tiny@release", "hf://acme/tiny/config.json"])
def test_repair_brings_back_the_revision_that_was_fetched(shoal: Shoal, tmp_path: Path, source: str) -> None:
    repo = HubRepo("acme/tiny", FILES)
    repo.point("refs/heads/release")
    with hub_in_thread([repo]) as hub:
        shoal.environ["HF_ENDPOINT"] = hub.url
        shoal.get(source, "--to", tmp_path / "to")
        repo.commit({"config.json": b"new"}, branch="release")
        repo.commit({"config.json": b"new"})
        (tmp_path / "to/config.json").write_bytes(b"damaged")
        shoal.run("verify", tmp_path / "to", "--repair").expect(0)
        shoal.run("verify", tmp_path / "to").expect(0)
    assert delivered(tmp_path / "to") == ({**FILES} if "json" not in source else {"config.json": FILES["config.json"]})


@pytest.mark.parametrize("which", [".", "models--acme--tiny"])
def test_repair_in_the_cache(shoal: Shoal, hub: StandInHub, fetched: Path, which: str) -> None:
    snapshot = Path(shoal.get("hf://acme/tiny").stdout.strip())
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(b"\0" * blob.stat().st_size)
    assert "model.safetensors" in shoal.run("verify", shoal.cache / which).expect(6).stderr
    shoal.run("verify", shoal.cache / which, "--repair").expect(0)
    assert (snapshot / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    shoal.run("verify", shoal.cache).expect(0)


def test_a_repair_that_cannot_be_done(shoal: Shoal, hub: StandInHub, fetched: Path) -> None:
    (fetched / "config.json").unlink()
    run = shoal.run("verify", fetched, "--repair", environ={"HF_ENDPOINT": "http://127.0.0.1:1"})
    assert run.exit_code in (1, 3) and "127.0.0.1:1" in run.stderr


def test_a_damaged_manifest_is_reported_and_made_anew(shoal: Shoal, hub: StandInHub, fetched: Path) -> None:
    manifest = fetched / ".shoal/manifest.json"
    whole = manifest.read_bytes()
    for damaged in (whole[:-20], whole.replace(b"config.json", b"konfig.json"), b"", b"{}"):
        manifest.write_bytes(damaged)
        run = shoal.run("verify", fetched)
        assert run.exit_code in (1, 6) and "manifest" in run.stderr
    hub.log.clear()
    shoal.get("hf://acme/tiny", "--to", fetched)
    assert hub.log.bytes_served == 0, "the files are right: they are hashed, not fetched"
    shoal.run("verify", fetched).expect(0)


def test_verify_where_nothing_was_fetched(shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "manifest" in shoal.run("verify", tmp_path / "empty").expect(3).stderr
    shoal.run("verify", tmp_path / "absent").expect(3)
    shoal.run("clean", tmp_path / "absent").expect(3)


def test_clean_leaves_files_and_manifest(shoal: Shoal, fetched: Path) -> None:
    (fetched / ".shoal/partial").mkdir(exist_ok=True)
    (fetched / ".shoal/partial/0123.part").write_bytes(b"stale")
    assert shoal.run("clean", fetched).expect(0).stdout == ""
    run = shoal.run("clean", fetched, "--older-than", "0s").expect(0)
    assert "0123.part" in run.stdout
    assert delivered(fetched) == FILES
    shoal.run("verify", fetched).expect(0)


# --- without a coordinator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs"],
        ["status"],
        ["status", "abc"],
        ["repos"],
        ["agents"],
        ["queue"],
        ["hosts"],
        ["errors", "abc"],
        ["pause", "abc"],
        ["resume", "abc"],
        ["cancel", "abc"],
        ["retry", "abc"],
        ["token", "list"],
        ["submit", "acme/tiny", "--to", "x"],
        ["get", "acme/tiny", "--to", "x"],
    ],
)
def test_a_coordinator_that_does_not_answer(shoal: Shoal, arguments: list[str]) -> None:
    run = shoal.run(*arguments, "--coordinator", "127.0.0.1:1", "--set", "fetch.connect_timeout=1s").expect(4)
    assert "127.0.0.1:1" in run.stderr
    assert run.stdout == ""


def test_a_closed_pipe_is_no_error(shoal: Shoal) -> None:
    done = subprocess.run(
        f"{installed('shoal')} config show | head -1",
        shell=True,
        env=shoal.environ,
        cwd=shoal.cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


# --- a terminal -----------------------------------------------------------------------------------------------------


def test_progress_bars_on_a_terminal(shoal: Shoal, hub: StandInHub, tmp_path: Path) -> None:
    """Bars for the job and for its files in work; on leaving, the terminal is as it was."""
    hub.add(HubRepo("acme/big", {"model.safetensors": SyntheticFile(64 * MIB)}))
    hub.faults.total_rate = 4 * MIB  # until its file was shown
    environ = {**shoal.environ, "HF_ENDPOINT": hub.url, "TERM": "xterm-256color", "LINES": "40"}
    terminal, other_end = pty.openpty()
    command = [installed("shoal"), "get", "acme/big", "--to", str(tmp_path / "to")]
    with subprocess.Popen(
        command, cwd=shoal.cwd, env=environ, stdin=other_end, stdout=other_end, stderr=other_end, start_new_session=True
    ) as process:
        os.close(other_end)
        said = b""
        try:
            while data := os.read(terminal, 65536):
                said += data
                if b"model.safetensors" in said:
                    hub.faults.total_rate = None
        except OSError:  # EIO: the other end is closed
            pass
        finally:
            os.close(terminal)
    text = said.decode()
    assert process.returncode == 0, text
    assert "hf://acme/big" in text and "model.safetensors" in text and "MiB" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor was hidden and not shown again"
