"""The coordinator's state in SQLite (https://www.sqlite.org/lang.html, wal.html, pragma.html).

There is exactly one connection, in one process: a lock file keeps other coordinators out and ``locking_mode=EXCLUSIVE`` everybody
else. So WAL needs no shared memory, and the bug of SQLite before 3.51.3 that could damage a WAL written and checkpointed by several
connections cannot occur here, whichever SQLite the system's Python is linked with.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ...common.collect_records import HostProfile
from ...common.errors import Busy, NoSpace, NotFound, NotWritable, ShoalError, StateDamaged, UsageError
from ...common.records import Failure, ObjectSpec
from ..effects import (
    PutAgent,
    PutHostPolicy,
    PutLease,
    Write,
)
from ..model import JobRow
from . import statements as sql
from .base import Cursor, ObjectRow, ObjectStatus, RevokedRow, TokenRow
from .batching import WriteBatch
from .rows import (
    Row,
    failure_to_json,
    job_from_row,
    lease_from_row,
    object_from_row,
    object_spec_from_row,
    profile_from_json,
    storable,
    token_from_row,
)
from .state_file import StateLock, not_writable, refuse_network

VERSION_MIN = (3, 37, 0)
"""The first with STRICT tables."""
CACHE_BYTES = 16 << 20
WAL_BYTES_MAX = 64 << 20
"""The write-ahead log is cut back to this after a checkpoint: adding a big manifest makes it long once."""
BUSY_TIMEOUT_S = 1.0
"""Somebody may be reading the database with another tool at the very moment of the start."""

INCARNATIONS_SKIPPED = 10_000
"""More starts than a coordinator makes between a backup and the day when it is put back; 2^31 is what there is in all."""

_MIGRATIONS = Path(__file__).parent / "migrations"


class SqliteStore:
    """A `Store` in one SQLite database."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        clock: Callable[[], float] = time.time,
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect,
    ) -> None:
        """path is the database file; a lock file lies beside it.

        synchronous NORMAL keeps what was applied through a kill but not through a power failure, and is faster. clock gives
        seconds since the epoch, for the creation times of credentials. connect stands in for `sqlite3.connect`.
        """
        self._path = path
        self._synchronous = synchronous
        self._clock = clock
        self._connect = connect
        self._lock = StateLock(path.with_name(path.name + ".lock"))
        self._connection: sqlite3.Connection | None = None

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    # ---- opening ----------------------------------------------------------------------------------------------------

    def open(self, *, begins: bool = True) -> int:
        """Open or create the state, migrate it, and return this run's incarnation, a new one if a coordinator begins.

        Raises Busy, StateDamaged, UsageError (a newer version's state, or a network file system), NotWritable, NoSpace.
        """
        if sqlite3.sqlite_version_info < VERSION_MIN:
            raise UsageError(
                f"SQLite {sqlite3.sqlite_version}",
                cause=f"the coordinator needs {'.'.join(map(str, VERSION_MIN))} or later",
                remedy="use a Python that is linked with a newer SQLite",
            )
        refuse_network(self._path)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            self.close()
            raise not_writable(self._path.parent, error) from error
        try:
            with self._translated():
                self._configure()
                self._check()
                self._migrate()
                return self._incarnation(begins=begins)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close. Everything applied before is on disk."""
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                connection.close()
        finally:
            self._lock.release()

    def _configure(self) -> None:
        connection = self._connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        self._connection = connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # before the first access: see the module's docstring
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES >> 10}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")

    def _check(self) -> None:
        verdict = self._all("PRAGMA quick_check(1)")[0][0]
        if verdict != "ok":
            raise self._damaged(str(verdict))

    def _migrate(self) -> None:
        migrations = sorted(_MIGRATIONS.glob("*.sql"))
        version: int = self._all("PRAGMA user_version")[0][0]
        if version > len(migrations):
            raise UsageError(
                f"state database {self._path}",
                cause=f"a newer Shoal wrote it (schema {version}; this one knows {len(migrations)})",
                remedy="use that version, or name another folder with --state",
            )
        for number, script in enumerate(migrations[version:], start=version + 1):
            body = script.read_text()
            with self._rolled_back():
                self._open_connection.executescript(
                    f"BEGIN IMMEDIATE;\n{body}\nPRAGMA user_version = {number};\nCOMMIT;"
                )

    def _incarnation(self, *, begins: bool) -> int:
        with self._transaction() as connection:
            (incarnation,) = connection.execute(sql.NEXT_INCARNATION if begins else sql.INCARNATION).fetchall()[0]
        self._open_connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return incarnation

    # ---- writing ----------------------------------------------------------------------------------------------------

    def apply(self, writes: Sequence[Write]) -> None:
        """Apply all of the writes in one transaction. Raises NoSpace, NotWritable or StateDamaged, with none applied."""
        if not writes:
            return
        batch = WriteBatch()
        for write in writes:
            batch.add(write)
        with self._transaction() as connection:
            for statement, rows in batch.statements():
                connection.executemany(statement, rows)

    def add_objects(self, job_id: str, specs: Sequence[ObjectSpec]) -> None:
        """Add a page of a job's manifest. Raises NotFound for a job that was never put."""
        rows = ((job_id, s.path, s.size, s.digest, s.etag, s.url, "queued", None, 0) for s in specs)
        self._add(job_id, rows)

    def add_failed_objects(self, job_id: str, refused: Sequence[tuple[str, Failure]]) -> None:
        """Record refused names. Raises NotFound for a job that was never put."""
        rows = (
            (job_id, storable(path), None, "", "", "", "failed", failure_to_json(failure), 1)
            for path, failure in refused
        )
        self._add(job_id, rows)

    def _add(self, job_id: str, rows: Iterable[Row]) -> None:
        with self._transaction() as connection:
            if connection.execute(sql.JOB_EXISTS, (job_id,)).fetchone() is None:
                raise NotFound(f"job {job_id}", cause="the store holds no such job")
            connection.executemany(sql.ADD_OBJECT, rows)

    def forget_objects(self, job_id: str) -> None:
        """Remove a job's objects."""
        with self._transaction() as connection:
            connection.execute(sql.FORGET_OBJECTS, (job_id,))

    def put_token(self, token_id: str, *, role: str, name: str, secret_hash: bytes, expires_at: float | None) -> None:
        """Store a credential's hash."""
        with self._transaction() as connection:
            connection.execute(sql.PUT_TOKEN, (token_id, role, name, secret_hash, self._clock(), expires_at))

    def delete_token(self, token_id: str) -> bool:
        """Revoke a credential."""
        with self._transaction() as connection:
            connection.execute(sql.KEEP_REVOKED, (token_id, self._clock()))
            return connection.execute(sql.DELETE_TOKEN, (token_id,)).rowcount > 0

    def expire_token(self, token_id: str, expires_at: float) -> None:
        """Let a credential end at this time."""
        with self._transaction() as connection:
            connection.execute(sql.EXPIRE_TOKEN, (token_id, expires_at))

    def put_identity(self, agent_id: str, credential: str) -> None:
        """Bind an agent's identity to a credential."""
        with self._transaction() as connection:
            connection.execute(sql.PUT_IDENTITY, (agent_id, credential))

    def snapshot(self, path: Path) -> None:
        """Write a consistent copy into a new file: no reader from outside could, as the write-ahead log is this process's alone."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self._translated():
            self._roll_back()
            self._open_connection.execute("VACUUM INTO ?", (str(path),))
            copy = self._connect(path, isolation_level=None)
            try:
                copy.execute(sql.SKIP_INCARNATIONS, (INCARNATIONS_SKIPPED,))
            finally:
                copy.close()

    # ---- reading ----------------------------------------------------------------------------------------------------

    def counts(self, job_id: str) -> tuple[int, int]:
        """Number of objects and sum of their known sizes, in bytes."""
        objects, size = self._all(sql.COUNT_OBJECTS, (job_id,))[0]
        return objects, size

    def queued_objects(self, job_id: str, after: Cursor | None, limit: int) -> list[tuple[ObjectSpec, int]]:
        """Queued objects with their failures so far, in the order of work, after the cursor."""
        if after is None:
            rows = self._all(sql.QUEUED_OBJECTS, (job_id, limit))
        else:
            rows = self._all(sql.QUEUED_OBJECTS_AFTER, (job_id, -after.weight, after.object_id, limit))
        return [(object_spec_from_row(row[:-1]), row[-1]) for row in rows]

    def list_objects(
        self, job_id: str, *, status: ObjectStatus | None = None, after_id: int = 0, limit: int = 1000
    ) -> list[ObjectRow]:
        """Objects by ascending id, after an id."""
        if status is None:
            rows = self._all(sql.LIST_OBJECTS, (job_id, after_id, limit))
        elif status is ObjectStatus.FAILED:
            rows = self._all(sql.LIST_FAILED_OBJECTS, (job_id, after_id, limit))
        else:
            rows = self._all(sql.LIST_OBJECTS_BY_STATUS, (job_id, after_id, status.value, limit))
        return [object_from_row(row) for row in rows]

    def get_object(self, object_id: int) -> ObjectRow | None:
        """One object."""
        rows = self._all(sql.GET_OBJECT, (object_id,))
        return object_from_row(rows[0]) if rows else None

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        return [job_from_row(row) for row in self._all(sql.JOBS)]

    def fetched_by(self) -> dict[str, dict[str, int]]:
        """Bytes that came from the origin, by job and agent; jobs without any are left out."""
        found: dict[str, dict[str, int]] = {}
        for job_id, agent_id, bytes_fetched in self._all(sql.FETCHED):
            found.setdefault(job_id, {})[agent_id] = bytes_fetched
        return found

    def leases(self) -> list[PutLease]:
        """Leases in force when the last incarnation ended, in the order in which they were granted."""
        return [lease_from_row(row) for row in self._all(sql.LEASES)]

    def agents(self) -> list[PutAgent]:
        """All agents ever seen, by id."""
        return [PutAgent(agent_id=a, name=n, version=v, zone=z) for a, n, v, z in self._all(sql.AGENTS)]

    def host_policies(self) -> list[PutHostPolicy]:
        """Host limits that an administrator set, by host."""
        rows = self._all(sql.HOST_POLICIES)
        return [PutHostPolicy(host=h, requests_per_s=r, bytes_per_s=b, connections=c) for h, r, b, c in rows]

    def tokens(self) -> list[TokenRow]:
        """All credentials, by id."""
        return [token_from_row(row) for row in self._all(sql.TOKENS)]

    def revoked_tokens(self) -> list[RevokedRow]:
        """All credentials that were revoked, by id."""
        rows = self._all(sql.REVOKED_TOKENS)
        return [RevokedRow(token_id=i, secret_hash=h, revoked_at=at) for i, h, at in rows]

    def identities(self) -> dict[str, str]:
        """Credentials by agent id."""
        return dict(self._all(sql.IDENTITIES))

    def profiles(self, job_id: str) -> list[HostProfile]:
        """What the hosts of a dataset job were like, by host."""
        return [profile_from_json(text) for (text,) in self._all(sql.PROFILES, (job_id,))]

    # ---- the connection ---------------------------------------------------------------------------------------------

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("the store is not open")
        return self._connection

    def _all(self, statement: str, values: Row = ()) -> list[Row]:
        with self._translated():
            self._roll_back()
            return self._open_connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._translated(), self._rolled_back():
            connection = self._open_connection
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _rolled_back(self) -> Generator[None]:
        """Leave no transaction open behind an error."""
        self._roll_back()
        try:
            yield
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        """End a transaction that failed: at once, or where that failed too, before anything else is done."""
        if self._open_connection.in_transaction:
            self._open_connection.execute("ROLLBACK")

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> ShoalError:
        thing = f"state database {self._path}"
        code: Any = getattr(error, "sqlite_errorcode", None)
        match (code or 0) & 0xFF:  # the upper bits hold the extended code
            case sqlite3.SQLITE_FULL:
                return NoSpace(thing, cause="the disk is full", remedy="free some space; nothing was lost")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self._damaged(str(error))
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return Busy(thing, cause="another program has it open", remedy="close that program")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_IOERR:
                return NotWritable(thing, cause=str(error), remedy="check the disk and the folder's permissions")
            case _:
                return ShoalError(thing, cause=str(error), remedy="this is an error in Shoal: please report it")

    def _damaged(self, cause: str) -> StateDamaged:
        name = self._path.name
        return StateDamaged(
            f"state database {self._path}",
            cause=cause,
            remedy=f"put back a copy of it, or move {name} and {name}-wal away and submit the jobs again: what is complete "
            "at their destinations is kept",
        )
