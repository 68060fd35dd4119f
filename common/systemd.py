"""Telling systemd how a daemon is: the datagram protocol of sd_notify(3). Outside of systemd every call does nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager

from .errors import UsageError

STATUS_CHARACTERS_MAX = 500  # a line for `systemctl status`


class Notifier:
    """Sends notifications to the socket that ``$NOTIFY_SOCKET`` names. A lost one is not an error."""

    def __init__(self, address: str = "", *, watchdog_interval_s: float | None = None) -> None:
        """Args: address, a path, or ``@NAME`` in the abstract namespace, or ``""`` for nobody; watchdog_interval_s, how
        often ``watchdog`` is to be called (half of what systemd waits), None where there is no watchdog.
        """
        self.watchdog_interval_s = watchdog_interval_s
        self._socket: socket.socket | None = None
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, pid: int | None = None) -> Notifier:
        """From ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` (sd_watchdog_enabled(3))."""
        return cls(
            environ.get("NOTIFY_SOCKET", ""), watchdog_interval_s=_watchdog_interval(environ, pid or os.getpid())
        )

    def ready(self, status: str = "") -> None:
        """Start-up is done."""
        self._send("READY=1", f"STATUS={_line(status)}" if status else "")

    def reloading(self) -> None:
        """Settings are being taken up again; `ready` says when that is done. The time tells systemd that it is this reload."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """Alive; to be sent every ``watchdog_interval_s`` by the loop that does the work."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> None:
        """Shutting down."""
        self._send("STOPPING=1", f"STATUS={_line(status)}" if status else "")

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        message = "\n".join(assignment for assignment in assignments if assignment)
        try:
            self._socket.sendto(message.encode(errors="replace"), self._address)
        except OSError:
            pass  # systemd is restarting or its queue is full: the next notification tells


LISTEN_FDS_START = 3


@contextmanager
def listen_sockets(environ: Mapping[str, str], *, pid: int | None = None) -> Generator[list[socket.socket]]:
    """The sockets that systemd listens on for this process, closed in the end: ``LISTEN_FDS``, ``LISTEN_PID`` (sd_listen_fds(3)).

    They are not inherited by children. Raises UsageError for one that is no listening stream socket.
    """
    text = environ.get("LISTEN_FDS", "")
    is_ours = environ.get("LISTEN_PID") == str(pid or os.getpid()) and text.isascii() and text.isdigit()
    with ExitStack() as stack:
        count = int(text) if is_ours else 0
        yield [stack.enter_context(_listener(number)) for number in range(LISTEN_FDS_START, LISTEN_FDS_START + count)]


def _listener(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        cause = f"descriptor {descriptor} is no socket: {error.strerror}"
        raise UsageError("LISTEN_FDS", cause=cause, remedy="see ListenStream= of the .socket unit") from None
    if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        cause = f"descriptor {descriptor} is no stream socket that listens"
        raise UsageError("LISTEN_FDS", cause=cause, remedy="set ListenStream= and Accept=no in the .socket unit")
    return listener


def _watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    wanted_pid, period_us = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if not environ.get("NOTIFY_SOCKET") or (wanted_pid and wanted_pid != str(pid)):
        return None
    # sd_watchdog_enabled(3): notify every half of the time.
    return int(period_us) / 2e6 if period_us.isascii() and period_us.isdigit() and int(period_us) > 0 else None


def _line(text: str) -> str:
    """One line: a line break would start another assignment."""
    return " ".join(text.split())[:STATUS_CHARACTERS_MAX]
