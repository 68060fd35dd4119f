"""Logs: levels, fields, both formats; no secret and no terminal escape passes; structlog only when it is needed."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common import logs
from shoal.common.errors import NotFound
from shoal.common.secrets import Secret, SecretRef

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
log = logs.get_logger("test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    logs.configure()


def written(format: str, level: str = "debug") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, format, stream)
    return stream


def test_an_event_is_one_json_object_with_its_action() -> None:
    stream = written("json")
    log.info("lease.granted", unit=7, agent="node3", ratio=0.5, done=True, names=["a"], path=Path("/x"))
    event = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert list(event)[:4] == ["timestamp", "level", "action", "logger"]
    assert event["timestamp"].endswith("Z")
    del event["timestamp"]
    assert event == {
        "level": "info", "action": "lease.granted", "logger": "test", "unit": 7, "agent": "node3", "ratio": 0.5,
        "done": True, "names": ["a"], "path": "/x",
    }  # fmt: skip


def test_an_event_is_one_line_on_the_console() -> None:
    stream = written("console")
    log.info("lease.granted", unit=7)
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert "lease.granted" in line
    assert "unit=7" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["d", "i", "w", "e"]), ("info", ["i", "w", "e"]), ("warning", ["w", "e"]), ("error", ["e"])],
)
def test_levels(level: str, expected: list[str]) -> None:
    stream = written("json", level)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [json.loads(line)["action"] for line in stream.getvalue().splitlines()] == expected
    assert logs.is_enabled(level)
    assert logs.is_enabled("debug") == (level == "debug")


def test_bound_fields_are_written_and_can_be_overridden() -> None:
    stream = written("json")
    bound = log.bind(job="j1", agent="a").bind(agent="b")
    bound.info("x", agent="c")
    bound.info("y")
    log.info("z")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event.get("job"), event.get("agent")) for event in events] == [("j1", "c"), ("j1", "b"), (None, None)]


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_field_does_not_pass_for_a_part_of_the_event(format: str) -> None:
    stream = written(format)
    log.info("real", action="forged", event="forged", level="forged", timestamp="forged", logger="forged")
    if format == "json":
        event = json.loads(stream.getvalue())
        assert (event["action"], event["level"], event["logger"]) == ("real", "info", "test")
        assert event["action_"] == "forged"
    else:
        assert "action_=forged" in stream.getvalue()


def test_an_unknown_level_or_format_is_refused() -> None:
    for level, format in (("loud", "json"), ("info", "xml")):
        with pytest.raises(ValueError, match="unknown"):
            logs.configure(level, format)


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_passes(format: str) -> None:
    stream = written(format)
    url = "https://cdn.example/x?Policy=hunter2&Signature=hunter2&Key-Pair-Id=hunter2&X-Amz-Signature=hunter2"
    log.info("a", secret=Secret("hunter2"), ref=SecretRef(name="hub.token", value=Secret("hunter2")))
    log.info("b", text=f"sent Authorization: Bearer {TOKEN}", url=url, proxy="http://user:hunter2@proxy:3128/")
    log.info("c", token="hunter2", Authorization="hunter2", api_key="hunter2", cookie=b"hunter2")
    log.info("d", headers={"Authorization": "hunter2", "X-Token": ["hunter2"], "x": {"password": "hunter2"}})
    log.info("e", deep=[[[[[[[[{"x": f"Bearer {TOKEN}"}]]]]]]]], data=TOKEN.encode(), both={TOKEN: 1})
    log.info(f"f {TOKEN}", **{TOKEN: 1})
    log.bind(token="hunter2").info("g")
    log.warning("h", error=NotFound(f"https://u:hunter2@h/{TOKEN}"), cause=ValueError(f"bad header 'Bearer {TOKEN}'"))
    assert "hunter2" not in stream.getvalue()
    assert TOKEN[8:] not in stream.getvalue()
    assert stream.getvalue().count("\n") == 8


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_passes_in_a_traceback(format: str) -> None:
    stream = written(format)
    try:
        try:
            raise ValueError(f"cannot send 'Authorization: Bearer {TOKEN}'")
        except ValueError as error:
            raise OSError("https://user:hunter2@host/x?token=hunter2") from error
    except OSError as error:
        log.exception("request.failed", url="https://user:hunter2@host/")
        log.error("request.failed", exc_info=error)
    text = stream.getvalue()
    assert text.count("Traceback") == 4
    assert "ValueError" in text
    assert "hunter2" not in text
    assert TOKEN[8:] not in text


@pytest.mark.parametrize("format", ["json", "console"])
def test_names_from_outside_cannot_steer_the_terminal(format: str) -> None:
    stream = written(format)
    hostile = "a\nlevel=error forged\x1b[2J\x9b\u202e\udc80\r"
    log.info(hostile, name=hostile, names=[hostile], **{hostile: 1})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    text.encode("utf-8")


def test_values_that_json_does_not_know_are_text() -> None:
    stream = written("json")
    log.info("x", nan=float("nan"), inf=[float("inf")], obj=object, items={1: {2}}, empty=ValueError(), none=None)
    event = json.loads(stream.getvalue(), parse_constant=lambda text: pytest.fail(text))
    assert event["nan"] == "nan"
    assert event["items"] == {"1": [2]}
    assert event["empty"] == "ValueError"
    assert event["none"] is None


def test_a_long_value_is_cut() -> None:
    stream = written("json")
    log.info("x", body="y" * 100_000)
    assert len(stream.getvalue()) < logs.TEXT_CHARACTERS_MAX + 300


def test_a_log_that_cannot_be_written_does_not_stop_the_work() -> None:
    stream = written("json")
    stream.close()
    log.error("x")


def test_standard_error_is_looked_up_when_it_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log.info("x")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["action"] == "x"
    assert captured.out == ""


def test_what_libraries_log_is_redacted_too() -> None:
    stream = written("json", "info")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.capture_library_logs()
        logging.getLogger("asyncio").error("failed with Bearer %s", TOKEN)
        logging.getLogger("grpc").info("not written")
        logging.getLogger("grpc").warning("%d", "no number")
        try:
            raise ValueError(TOKEN)
        except ValueError:
            logging.getLogger("x").exception("oops")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["library"], event["level"]) for event in events] == [
        ("asyncio", "error"), ("grpc", "warning"), ("x", "error"),
    ]  # fmt: skip
    assert "Traceback" in events[2]["exception"]
    assert TOKEN[8:] not in stream.getvalue()


def test_structlog_is_imported_by_the_first_event_that_is_written() -> None:
    code = """
import sys
from shoal.common import logs
log = logs.get_logger("x").bind(a=1)
logs.configure("warning", "json")
log.info("no")
assert "structlog" not in sys.modules and "logging" not in sys.modules
log.warning("yes")
assert "structlog" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_in_the_journal_lines_have_priorities_and_no_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stderr").open("w+") as stream:
        stat = (tmp_path / "stderr").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        logs.configure("debug", "console", stream)
        log = logs.get_logger("test")
        try:
            log.debug("one.happened")
            log.warning("two.happened")
            raise ValueError("three")
        except ValueError:
            log.exception("three.happened")
        finally:
            logs.configure()
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[0].startswith("<7>") and lines[1].startswith("<4>")
    assert len(lines) > 4 and all(line.startswith("<3>") for line in lines[2:])  # every line of the traceback
    assert not any("20" in line.partition("]")[0] for line in lines[:3])


def test_another_stream_is_not_taken_for_the_journal(tmp_path: Path) -> None:
    assert not logs.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
    with (tmp_path / "a").open("w") as stream:
        assert not logs.is_journal(stream, {})
        assert not logs.is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        stat = (tmp_path / "a").stat()
        assert logs.is_journal(stream, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
