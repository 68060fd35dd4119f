"""Structured logs: one event a line, each with an ``action`` that a program can look for. No secret passes.

    log = get_logger("agent")
    log.info("lease.granted", unit=7, agent="node3")

Loggers cost nothing to make: structlog (a tenth of a second) is imported when the first event is written, which in a
quiet command is never.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import PurePath
from typing import Any, Final, NamedTuple, TextIO, cast

from .secrets import REDACTED, Secret, SecretRef, names_secret, redact

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}  # the numbers of the standard library
NESTING_MAX = 6  # deeper values are written as their text
TEXT_CHARACTERS_MAX = 8192  # of one value; a hostile server must not fill the disk with one error text
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # of syslog(3)
_RESERVED = frozenset({"action", "event", "level", "logger", "timestamp", "exc_info"})


class _Output(NamedTuple):
    """What ``configure`` set."""

    level: int = LEVELS["warning"]
    format: str = "console"
    stream: TextIO | None = None  # None: standard error as it is when the event is written
    color: bool = False


class _State:
    """The process has one log, as it has one standard error: this is the only global of the module."""

    output = _Output()
    write: Callable[[str, str, str, dict[str, object]], None] | None = None
    lock = threading.Lock()


def configure(
    level: str = "warning", format: str = "console", stream: TextIO | None = None, *, color: bool = False
) -> None:
    """Say what is written and where. May be called again at any time; loggers that exist follow.

    Args: level is a key of LEVELS, format ``"console"`` or ``"json"``, stream where lines go (standard error by default).
    """
    if level not in LEVELS or format not in ("console", "json"):
        raise ValueError(f"unknown log level or format: {level}, {format}")
    with _State.lock:
        _State.output = _Output(LEVELS[level], format, stream, color)
        _State.write = None


def use_stream(stream: TextIO) -> None:
    """Write to another stream from now on, as `configure` with the rest as it is."""
    with _State.lock:
        _State.output = _State.output._replace(stream=stream)
        _State.write = None


def reconfigure(level: str, format: str) -> None:
    """Another level and format from now on, to the same stream."""
    configure(level, format, _State.output.stream, color=_State.output.color)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream leads into systemd's journal: ``$JOURNAL_STREAM`` names its device and inode (systemd.exec(5))."""
    named = environ.get("JOURNAL_STREAM", "")
    if not named:
        return False
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file: an io.StringIO, or closed
        return False
    return named == f"{stat.st_dev}:{stat.st_ino}"


def is_enabled(level: str) -> bool:
    """Would an event of this level be written?"""
    return LEVELS[level] >= _State.output.level


class Logger:
    """Writes events with a name and fields. ``action`` comes first, ``noun.verb`` in the past tense; the rest are fields."""

    __slots__ = ("_bound", "_name")

    def __init__(self, name: str, bound: Mapping[str, object] | None = None) -> None:
        self._name = name
        self._bound = dict(bound or {})

    def bind(self, **fields: object) -> Logger:
        """A logger whose events carry these fields too."""
        return Logger(self._name, {**self._bound, **fields})

    def debug(self, action: str, /, **fields: object) -> None:
        """For the one who looks for a fault in Shoal."""
        if _State.output.level <= 10:
            self._emit("debug", action, fields)

    def info(self, action: str, /, **fields: object) -> None:
        """What happened, in normal work."""
        if _State.output.level <= 20:
            self._emit("info", action, fields)

    def warning(self, action: str, /, **fields: object) -> None:
        """Somebody should know; work goes on."""
        if _State.output.level <= 30:
            self._emit("warning", action, fields)

    def error(self, action: str, /, **fields: object) -> None:
        """Work was lost or given up."""
        if _State.output.level <= 40:
            self._emit("error", action, fields)

    def exception(self, action: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._emit("error", action, {"exc_info": True, **fields})

    def _emit(self, level: str, action: str, fields: Mapping[str, object]) -> None:
        event = {**self._bound, **fields}
        write = _State.write
        if write is None:
            with _State.lock:
                write = _State.write or _writer(_State.output)
                _State.write = write
        try:
            write(level, self._name, action, event)
        except (OSError, ValueError):
            # A full disk or a closed terminal under the log must not stop the work that it reports on.
            pass


class Seldom:
    """Lets through at most so many events in so long: for what others can cause as often as they like."""

    def __init__(self, events_max: int, period_s: float) -> None:
        self._events_max = events_max
        self._period_s = period_s
        self._began = float("-inf")
        self._events = 0

    def take(self, now: float) -> bool:
        """Whether an event at this time, in seconds, may be written."""
        if now - self._began >= self._period_s:
            self._began, self._events = now, 0
        self._events += 1
        return self._events <= self._events_max


def get_logger(name: str) -> Logger:
    """A logger for a part of the system (``"agent"``, ``"coordinator.scheduler"``)."""
    return Logger(name)


def capture_library_logs() -> None:
    """Send what libraries log (asyncio, grpc, huggingface_hub), from warnings upwards, through this log and its redaction."""
    import logging

    log = get_logger("library")

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "error" if record.levelno >= logging.ERROR else "warning"
            try:
                message = record.getMessage()
            except Exception:  # arguments that do not fit the text: the library's mistake
                message = str(record.msg)
            fields: dict[str, object] = {"library": record.name, "message": message}
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            getattr(log, level)("library.logged", **fields)

    root = logging.getLogger()
    root.handlers[:] = [Forward(logging.WARNING)]
    root.setLevel(logging.WARNING)


def _writer(output: _Output) -> Callable[[str, str, str, dict[str, object]], None]:
    """The function that writes an event: (level, logger, action, fields)."""
    import structlog

    is_json = output.format == "json"
    render: list[structlog.typing.Processor] = (
        [structlog.processors.EventRenamer("action"), _action_first, structlog.processors.JSONRenderer()]
        if is_json
        else [
            _escape,
            structlog.dev.ConsoleRenderer(
                colors=output.color, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
            ),
        ]
    )
    stream = output.stream or sys.stderr
    in_journal = is_journal(stream, os.environ)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        *([] if in_journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]),  # the journal has its own
        structlog.processors.format_exc_info,
        _redact,  # after the traceback became text, before anything is written
        *render,
    ]
    lock = threading.Lock()

    def write(level: str, name: str, action: str, fields: dict[str, object]) -> None:
        # A field must not pass for one of the event's own; underscored, it is still there to read.
        event: MutableMapping[str, Any] = {
            (f"{key}_" if key in _RESERVED and key != "exc_info" else key): value for key, value in fields.items()
        }
        event = {"event": action, "logger": name, **event}
        for processor in processors:
            event = cast("MutableMapping[str, Any]", processor(None, level, event))
        text = f"{event}\n"
        if in_journal:  # the prefix of sd-daemon(3) is the priority of a line, and a traceback has several
            text = "".join(f"<{_PRIORITIES[level]}>{line}\n" for line in str(event).split("\n"))
        with lock:
            stream.write(text)
            stream.flush()

    return write


def _action_first(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    head = {name: event.pop(name) for name in ("timestamp", "level", "action", "logger") if name in event}
    return {**head, **event}


def _redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    return {
        redact(str(name)): REDACTED if names_secret(str(name)) and isinstance(value, (str, bytes)) else _plain(value)
        for name, value in event.items()
    }


def _plain(value: object, depth: int = 0) -> object:
    """A value as JSON knows it, without credentials and of bounded size."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON has no NaN
    if isinstance(value, (Secret, SecretRef)):
        return REDACTED
    if depth < NESTING_MAX:
        if isinstance(value, Mapping):
            items = cast("Mapping[object, object]", value).items()
            return {
                redact(str(key)): REDACTED if names_secret(str(key)) and item is not None else _plain(item, depth + 1)
                for key, item in items
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item, depth + 1) for item in cast("Sequence[object]", value)]
    text = value if isinstance(value, str) else str(value) if isinstance(value, (PurePath, Exception)) else repr(value)
    if isinstance(value, Exception) and not text:
        text = type(value).__name__
    text = redact(text)
    return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}…"


def _escape(_logger: object, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Names from outside must not steer the terminal or start a line of their own; JSON escapes by itself."""
    return {_printable(name): _escaped(value, name) for name, value in event.items()}


def _escaped(value: object, name: str = "") -> object:
    if isinstance(value, str):
        # Only a traceback has lines; each of them is escaped.
        return "\n".join(map(_printable, value.split("\n"))) if name == "exception" else _printable(value)
    if isinstance(value, list):
        return [_escaped(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {_printable(key): _escaped(item) for key, item in cast("dict[str, object]", value).items()}
    return value


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
