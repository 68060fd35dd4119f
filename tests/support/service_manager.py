"""systemd's side of its protocols: the notification socket, the watchdog, credentials, sockets that were opened before. ::

with ServiceManager(tmp_path / "notify") as manager:
    daemon = fleet.daemon("coordinator", [...], manager.environ)
    daemon.start()
    manager.until("READY=1")
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

WAIT_S = 60.0  # whatever takes longer hangs


class ServiceManager:
    """Listens to one daemon."""

    def __init__(self, *, watchdog_s: float | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")  # a socket's path must be short
        path = Path(self._folder.name, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path)}
        if watchdog_s is not None:
            self.environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.received: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._folder.cleanup()

    def until(self, wanted: str | Callable[[str], bool], timeout_s: float = WAIT_S) -> str:
        """The next notification that holds this line, or for which this is true. Raises TimeoutError that tells what came."""
        ends_at = time.monotonic() + timeout_s
        while (left_s := ends_at - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                text = self._socket.recv(65536).decode()
            except TimeoutError:
                break
            self.received.append((time.monotonic(), text))
            if wanted(text) if callable(wanted) else wanted in text.split("\n"):
                return text
        raise TimeoutError(f"not within {timeout_s} s: {wanted}; came: {[text for _, text in self.received]}")

    def drain(self) -> list[str]:
        """What waits now."""
        found: list[str] = []
        self._socket.setblocking(False)
        while True:
            try:
                found.append(self._socket.recv(65536).decode())
            except BlockingIOError:
                return found

    def silent_for(self, period_s: float) -> bool:
        """Whether nothing comes for so long; what had been sent before does not count."""
        self.drain()
        self._socket.settimeout(period_s)
        try:
            self._socket.recv(65536)
        except TimeoutError:
            return True
        return False
