"""Server-sent events: numbered, resumable, with a bound on what waits for each client.

Each event is encoded once, whoever reads it. A client that comes back names the last event that it saw (``Last-Event-ID``) and gets
what it missed, if that is still kept; otherwise, and whenever it reads too slowly, it gets a fresh snapshot instead. Pure: the
stream itself is in `events_api.py`. The format is the HTML standard's, section 9.2.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...common.errors import Busy

KEPT_MAX = 512
"""Events that a client which comes back may have missed: at one tick a second some minutes."""
KEPT_BYTES_MAX = 8 << 20
WAITING_MAX = 128
"""Events that wait for one client."""
WAITING_BYTES_MAX = 2 << 20
CLIENTS_MAX = 256

_ID = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")

HEARTBEAT = b": still here\n\n"


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it goes over the wire. number is 0 for a snapshot and for what concerns one client only."""

    number: int
    data: bytes


def encoded(kind: str, value: Any, event_id: str = "") -> bytes:
    """An event as bytes. JSON has no bare line breaks, so it is one line of data."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {kind}\ndata: {text}\n\n".encode()


class Client:
    """What waits for one reader. overrun: it read too slowly, and what waited for it was dropped."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self.overrun = False
        self.closed = False

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def put(self, event: Event) -> None:
        """Let an event wait. Never blocks; never grows beyond the bound."""
        if self.overrun:
            return
        if len(self._waiting) >= WAITING_MAX or self._bytes + len(event.data) > WAITING_BYTES_MAX:
            self._waiting.clear()
            self._bytes = 0
            self.overrun = True
        else:
            self._waiting.append(event)
            self._bytes += len(event.data)
        self._ready.set()

    def close(self) -> None:
        """Let the reader end."""
        self.closed = True
        self._ready.set()

    def take(self) -> bytes:
        """All that waits."""
        data = b"".join(event.data for event in self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._ready.clear()
        return data

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there is something. False after so long without."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True


class Feed:
    """All events, and who reads them."""

    def __init__(self, incarnation: int) -> None:
        """incarnation: of the coordinator; events of another one cannot be resumed from."""
        self._incarnation = incarnation
        self._number = 0
        self._kept: deque[Event] = deque()
        self._kept_bytes = 0
        self._clients: set[Client] = set()

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def last_id(self) -> str:
        """The id of the newest event."""
        return f"{self._incarnation}-{self._number}"

    def publish(self, kind: str, value: Any) -> None:
        """Tell everybody."""
        self._number += 1
        event = Event(self._number, encoded(kind, value, self.last_id))
        self._kept.append(event)
        self._kept_bytes += len(event.data)
        while len(self._kept) > KEPT_MAX or (self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1):
            self._kept_bytes -= len(self._kept.popleft().data)
        for client in self._clients:
            client.put(event)

    def missed(self, last_id: str) -> list[Event] | None:
        """What came after an event; None where that is not known any more."""
        match = _ID.fullmatch(last_id)
        if match is None or int(match[1]) != self._incarnation:
            return None
        number = int(match[2])
        first = self._kept[0].number if self._kept else self._number + 1
        if not first - 1 <= number <= self._number:
            return None
        return [event for event in self._kept if event.number > number]

    @contextmanager
    def reading(self) -> Generator[Client]:
        """A reader, for as long as it reads. Raises Busy when there are too many."""
        if len(self._clients) >= CLIENTS_MAX:
            raise Busy("events", cause=f"{CLIENTS_MAX} clients read them already", remedy="ask GET /api/status instead")
        client = Client()
        self._clients.add(client)
        try:
            yield client
        finally:
            self._clients.discard(client)

    def close(self) -> None:
        """End all streams."""
        for client in self._clients:
            client.close()
