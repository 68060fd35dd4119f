"""Where a process stands inside Slurm, as Slurm's own variables tell (sbatch(1), srun(1): OUTPUT ENVIRONMENT VARIABLES).

Nothing here asks Slurm anything: it reads an environment that is given to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..common.errors import UsageError

T = TypeVar("T")

TASKS_MAX = 100_000
"""Of an array. Slurm's own limit, MaxArraySize, is 1001 unless a site says otherwise, and at most 4,000,001."""

_ARRAY = re.compile(r"([0-9,\-:]+)(%[1-9][0-9]*)?")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+)(?::([1-9][0-9]*))?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """One job of Slurm, from inside. array_job_id is empty for a job that is no array; restarts counts requeues."""

    job_id: str
    node_list: str  # as Slurm writes it: n[0-3]
    nodes: int
    restarts: int = 0
    array_job_id: str = ""
    array_task: int = 0
    array_tasks: tuple[int, ...] = ()  # all tasks of the array, as far as the environment tells
    submit_dir: str = ""

    @property
    def key(self) -> str:
        """What names this job for ever: the id that `squeue` shows, with ``_`` and the task for a task of an array."""
        return f"{self.array_job_id}_{self.array_task}" if self.array_job_id else self.job_id


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """The job that this environment is of, or None outside of one. Raises UsageError for one that contradicts itself."""
    job_id = environ.get("SLURM_JOB_ID", "")
    if not job_id:
        return None
    if not job_id.isdecimal():
        raise UsageError("SLURM_JOB_ID", cause=f"{job_id!r} is not the id of a job", remedy="unset it outside of a job")
    node_list = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST", "")
    if not node_list:
        cause = "SLURM_JOB_ID is set, SLURM_JOB_NODELIST is not"
        raise UsageError("this job", cause=cause, remedy="run it by sbatch or salloc, or unset SLURM_JOB_ID")
    array_job_id = environ.get("SLURM_ARRAY_JOB_ID", "")
    return Allocation(
        job_id=job_id,
        node_list=node_list,
        nodes=_number(environ, "SLURM_JOB_NUM_NODES", _number(environ, "SLURM_NNODES", 1)),
        restarts=_number(environ, "SLURM_RESTART_COUNT", 0),
        array_job_id=array_job_id,
        array_task=_number(environ, "SLURM_ARRAY_TASK_ID", 0) if array_job_id else 0,
        array_tasks=_told_tasks(environ) if array_job_id else (),
        submit_dir=environ.get("SLURM_SUBMIT_DIR", ""),
    )


def array_tasks(text: str) -> tuple[int, ...]:
    """The tasks of ``--array``, ascending: ``0-3``, ``1,5,7``, ``0-15:4``, each perhaps with ``%N`` tasks at once.

    Raises UsageError.
    """
    thing, remedy = f"--array {text}", "for example --array 0-3, or 0-15%4 for four at once"
    match = _ARRAY.fullmatch(text)
    if match is None:
        raise UsageError(thing, cause="it is not a list of tasks", remedy=remedy)
    found: set[int] = set()
    for part in match[1].split(","):
        range_of = _RANGE.fullmatch(part)
        if range_of is None:
            raise UsageError(thing, cause=f"{part!r} is not a task or a range of tasks", remedy=remedy)
        first = int(range_of[1])
        last = int(range_of[2]) if range_of[2] else first
        if last < first or last - first > TASKS_MAX:
            raise UsageError(thing, cause=f"the range {part} is backwards or too long", remedy=remedy)
        found.update(range(first, last + 1, int(range_of[3] or 1)))
    return tuple(sorted(found))


def share(items: Sequence[T], tasks: Sequence[int], task: int) -> list[T]:
    """The part of a list that one task of an array does: every n-th, so that neighbours, often alike, go to different tasks.

    Raises UsageError for a task that is not of the array.
    """
    if task not in tasks:
        raise UsageError(
            f"task {task}",
            cause=f"it is not among the array's tasks {_shown(tasks)}, so its share is not known",
            remedy="name the whole array with --array, also where only some of its tasks are submitted",
        )
    return list(items[sorted(tasks).index(task) :: len(tasks)])


def _told_tasks(environ: Mapping[str, str]) -> tuple[int, ...]:
    """All tasks, where they are a range without holes: of others Slurm tells only count, least and greatest."""
    count = _number(environ, "SLURM_ARRAY_TASK_COUNT", 1)
    first, last = _number(environ, "SLURM_ARRAY_TASK_MIN", 0), _number(environ, "SLURM_ARRAY_TASK_MAX", 0)
    step = (last - first) // (count - 1) if count > 1 else 1
    tasks = tuple(range(first, last + 1, max(1, step)))
    return tasks if len(tasks) == count <= TASKS_MAX and tasks[-1] == last else ()


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(name, cause=f"{text!r} is not a number", remedy="it is Slurm's to set")
    return int(text)


def _shown(tasks: Sequence[int]) -> str:
    if not tasks:
        return "(Slurm does not tell them)"
    return ", ".join(map(str, tasks[:10])) + (", …" if len(tasks) > 10 else "")
