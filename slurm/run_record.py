"""What one job of Slurm remembers from run to run: a small file in its state folder, on a file system that all nodes see.

The bytes that arrived are not its matter: chunk maps and manifests beside the data tell those. Here are the commands that ended well,
which a run after a requeue leaves out, and how often the job asked to be continued. The file is replaced as a whole (temporary file,
fsync, rename) and opens with a digest of the rest: one that was cut is noticed, set aside, and costs only that commands run again,
which find their work done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

from ..common.errors import NotWritable
from ..common.logs import get_logger

NAME = "run.json"
FORMAT = 1
RECORD_BYTES_MAX = 8 << 20
RUNS_MAX = 100  # the newest are kept

log = get_logger("launch")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The record. Each of `runs` has: restarts, node, started_at (Unix seconds), nodes, and at its end ended_at, code, next."""

    finished: tuple[tuple[str, ...], ...] = ()
    continuations: int = 0
    runs: tuple[Mapping[str, Any], ...] = field(default=())

    def begun(self, run: Mapping[str, Any]) -> Self:
        """With one more run."""
        return replace(self, runs=(*self.runs, dict(run))[-RUNS_MAX:])

    def ended(self, **outcome: Any) -> Self:
        """With the outcome of the newest run."""
        return replace(self, runs=(*self.runs[:-1], {**self.runs[-1], **outcome}))

    def continued(self) -> Self:
        """With one more continuation asked for."""
        return replace(self, continuations=self.continuations + 1)

    def with_finished(self, command: Sequence[str]) -> Self:
        """With one more command that ended well."""
        return replace(self, finished=(*self.finished, tuple(command)))


def load(folder: Path) -> RunRecord:
    """The record in a state folder; an empty one where there is none or where it is damaged.

    Raises NotWritable if it cannot be read.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_BYTES_MAX + 1)
    except FileNotFoundError:
        return RunRecord()
    except OSError as error:
        raise NotWritable(f"state {path}", cause=str(error), remedy="check its permissions") from None
    digest, _, text = data.partition(b"\n")
    try:
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError("its digest is not that of its text")
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        return RunRecord(
            finished=tuple(tuple(map(str, command)) for command in found["finished"]),
            continuations=int(found["continuations"]),
            runs=tuple(cast("list[Mapping[str, Any]]", found["runs"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("launch.record_damaged", path=str(path), reason=str(error), now="all commands are run again")
        path.replace(path.with_suffix(".damaged"))
        return RunRecord()


def save(folder: Path, record: RunRecord) -> None:
    """Write the record, whole or not at all. Raises NotWritable."""
    text = json.dumps({"format": FORMAT, **asdict(record)}, indent=1).encode() + b"\n"
    temporary = folder / f".{NAME}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NAME)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise NotWritable(
            f"state {folder / NAME}", cause=str(error), remedy="name another folder with --state"
        ) from None
