"""What gRPC's C core writes to standard error, as events of our log.

The core has no other way to say why a TLS handshake failed, and the client that was refused learns nothing from it. So as long as a
daemon runs, standard error (the file descriptor) is a pipe that a thread reads; our own log and Python go to the real one directly.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from . import logs

LINE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\S+:\d+)\] (.*)")
"""absl's log prefix: level, date, time, thread, place."""
EVENTS_MAX, PERIOD_S = 20, 60.0
"""Strangers can cause handshakes to fail as often as they like; they must not fill the disk."""
LINE_BYTES_MAX = 8192

_HANDSHAKE = re.compile(r"[Hh]andshake failed.*?:SSL routines:[A-Za-z_]*:(\w+)(?:: (.*))?")
_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no client certificate, which security.client_ca demands",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "HTTP_REQUEST": "it does not speak TLS",
    "BAD_PACKET_LENGTH": "it gave up: it does not trust our certificate, or does not speak TLS as it should",
}
_VERIFY = {
    "certificate has expired": "its client certificate has expired",
    "certificate is not yet valid": "its client certificate is not valid yet: check the clocks",
}

log = logs.get_logger("grpc")


def refusal(message: str) -> str | None:
    """Why a handshake failed, from a line of the core; None if the line is about something else."""
    found = _HANDSHAKE.search(message)
    if found is None:
        return None
    reason, detail = found[1], (found[2] or "").strip()
    if reason == "CERTIFICATE_VERIFY_FAILED":
        return _VERIFY.get(detail, f"its certificate does not come from a trusted authority ({detail})")
    if reason.startswith(("TLSV1_ALERT", "SSLV3_ALERT", "TLSV13_ALERT")):
        return f"it refused our certificate ({reason.lower().replace('_', ' ')})"
    return _REASONS.get(reason, reason.lower().replace("_", " "))


class Translator:
    """Lines in, events or text out."""

    def __init__(self, *, is_server: bool) -> None:
        """is_server: a failed handshake is a stranger that was refused; else it is our own, and its error tells of it."""
        self._is_server = is_server
        self._seldom = logs.Seldom(EVENTS_MAX, PERIOD_S)

    def line(self, text: str, now: float) -> str | None:
        """Log a line of the core; returns a line that is not the core's, to be written as it is. now: seconds."""
        found = LINE.match(text)
        if found is None:
            return text
        level, place, message = found.groups()
        reason = refusal(message)
        if reason is not None and self._is_server:
            if self._seldom.take(now):
                log.warning("tls.refused", reason=reason)
        elif reason is not None:
            log.debug("tls.failed", message=message)
        elif level == "I":
            log.debug("library.logged", library=f"grpc {place}", message=message)
        elif self._seldom.take(now):
            write = log.warning if level == "W" else log.error
            write("library.logged", library=f"grpc {place}", message=message)
        return None


@contextmanager
def translated(*, is_server: bool) -> Generator[None]:
    """As long as the block runs, the core's lines are events of our log."""
    try:
        real = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    reading, writing = os.pipe()
    ending, end = os.pipe()
    translator = Translator(is_server=is_server)
    stream = io.TextIOWrapper(io.FileIO(real, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)

    def read() -> None:
        waiting = b""
        while True:
            ready, _, _ = select.select([reading, ending], [], [])
            data = os.read(reading, LINE_BYTES_MAX) if reading in ready else b""
            if data:
                waiting += data
                *lines, waiting = waiting.split(b"\n")
                if len(waiting) > LINE_BYTES_MAX:
                    lines, waiting = [*lines, waiting], b""
                for line in lines:
                    raw = translator.line(line.decode(errors="backslashreplace"), time.monotonic())
                    if raw is not None:
                        os.write(real, raw.encode() + b"\n")
            else:  # only when nothing waits to be read: a child process may hold the other end for longer
                os.write(real, waiting)
                return

    thread = threading.Thread(target=read, name="grpc-log", daemon=True)
    before, sys.stderr = sys.stderr, stream
    before.flush()
    logs.use_stream(stream)
    os.dup2(writing, 2)
    os.close(writing)
    thread.start()
    try:
        yield
    finally:
        os.dup2(real, 2)
        os.write(end, b".")
        thread.join()
        sys.stderr = before
        logs.use_stream(before)
        stream.detach()
        for descriptor in (reading, ending, end, real):
            os.close(descriptor)
