"""What the stand-in servers were asked and what they sent: the evidence that integration tests judge by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .http_answer import Kind, ServerName

FILE_KINDS: frozenset[Kind] = frozenset({"file", "cdn"})
SETTLE_S = 60.0  # whatever takes longer hangs


@dataclass(kw_only=True, slots=True, eq=False)
class RequestRecord:
    """One request. It is in the log from its first moment; status and body_bytes grow while it is answered."""

    started_at: float  # seconds, the server loop's clock
    ended_at: float | None = None  # None while under way
    server: ServerName
    connection: int  # number of the TCP connection, from 1, per server
    method: str
    target: str  # path and query as sent
    kind: Kind = "unknown"
    repo: str | None = None  # "models/acme/tiny"
    path: str | None = None  # the file's path in its repo or on its origin
    range: str | None = None  # the Range header
    status: int | None = None  # None: no answer yet, or none at all
    headers: Mapping[str, str] = field(repr=False)  # of the request, names in lower case; may hold a test's token
    body_bytes: int = 0  # bytes of body handed to the connection
    complete: bool = False  # the whole answer went out
    faults: tuple[str, ...] = ()  # names of the faults that fired
    forgotten: bool = False  # the log was cleared since: what is still sent counts for nothing


class Records:
    """Some of a log's records, oldest first."""

    def __init__(self, records: Iterable[RequestRecord]) -> None:
        self._records = list(records)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> RequestRecord:
        return self._records[index]

    def __repr__(self) -> str:
        return "\n".join(["Records:", *map(repr, self._records)])

    @property
    def bytes_served(self) -> int:
        """Bytes of body that these requests got."""
        return sum(record.body_bytes for record in self._records)

    @property
    def connections(self) -> int:
        """How many TCP connections carried these requests."""
        return len({(record.server, record.connection) for record in self._records})

    @property
    def max_in_flight(self) -> int:
        """The most of these requests that were under way at one moment.

        A request ends when the server knows that it handed everything over: a client that at once asks again on another
        connection can be seen with one more than it meant.
        """
        edges = [(record.started_at, 1) for record in self._records]
        edges += [(record.ended_at, -1) for record in self._records if record.ended_at is not None]
        peak = current = 0
        for _, step in sorted(edges):
            current += step
            peak = max(peak, current)
        return peak


class RequestLog:
    """All requests of one stand-in, over all of its servers. Safe to read from any thread."""

    def __init__(self) -> None:
        self._records: list[RequestRecord] = []
        self._changed = threading.Condition()
        self._file_bytes = 0

    @property
    def records(self) -> Records:
        """Every record so far."""
        return self.where()

    @property
    def bytes_served(self) -> int:
        """Bytes of file bodies (kinds "file" and "cdn") that were sent."""
        return self._file_bytes

    @property
    def max_in_flight(self) -> int:
        """The most requests that were under way at one moment."""
        return self.records.max_in_flight

    def count(
        self,
        *,
        server: ServerName | None = None,
        kind: Kind | None = None,
        method: str | None = None,
        status: int | None = None,
        repo: str | None = None,
        path: str | None = None,
    ) -> int:
        """How many requests fit; None fits everything."""
        return len(self.where(server=server, kind=kind, method=method, status=status, repo=repo, path=path))

    def where(
        self,
        *,
        server: ServerName | None = None,
        kind: Kind | None = None,
        method: str | None = None,
        status: int | None = None,
        repo: str | None = None,
        path: str | None = None,
    ) -> Records:
        """The requests that fit; None fits everything."""
        with self._changed:
            return Records(
                record
                for record in self._records
                if (server is None or record.server == server)
                and (kind is None or record.kind == kind)
                and (method is None or record.method == method)
                and (status is None or record.status == status)
                and (repo is None or record.repo == repo)
                and (path is None or record.path == path)
            )

    def clear(self) -> None:
        """Forgets everything; requests under way are no longer counted."""
        with self._changed:
            for record in self._records:
                record.forgotten = True
            self._records = []
            self._file_bytes = 0

    def wait_for(self, condition: Callable[[RequestLog], bool], *, timeout_s: float) -> None:
        """Blocks until ``condition`` holds; from async code call it in a thread.

        Raises: TimeoutError with the log's last records.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_s):
                last = "\n".join(map(repr, self._records[-10:]))
                raise TimeoutError(f"not within {timeout_s} s; the last of {len(self._records)} requests:\n{last}")

    def settled(self, *, timeout_s: float = SETTLE_S) -> RequestLog:
        """Blocks until no request is under way: who has all bytes may look before the server has written down that it sent them, and
        of a connection that was dropped the server learns later than who dropped it. Returns: this log. Raises: TimeoutError.
        """
        self.wait_for(lambda log: all(record.ended_at is not None for record in log.records), timeout_s=timeout_s)
        return self

    def opened(self, record: RequestRecord) -> None:
        """A request arrived."""
        with self._changed:
            self._records.append(record)
            self._changed.notify_all()

    def sent(self, record: RequestRecord, size: int) -> None:
        """``size`` bytes of body go out."""
        with self._changed:
            record.body_bytes += size
            if record.kind in FILE_KINDS and not record.forgotten:
                self._file_bytes += size
            self._changed.notify_all()

    def closed(self, record: RequestRecord, now: float) -> None:
        """The request is over."""
        with self._changed:
            record.ended_at = now
            self._changed.notify_all()
