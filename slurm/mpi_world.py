"""All that is asked of MPI, through mpi4py: which ranks share a node, and that they hear of each other once.

MPI is started, used for a gather, a broadcast and a barrier, and ended, before any work begins. So a rank that dies later, or a network
stack that MPI finds but cannot use for long, holds nobody up; and ranks that have ended MPI may start processes as they like. Every
step has a deadline: a rank that never arrives ends the others with a message.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..common.errors import ExitCode, MissingExtra, UsageError

T = TypeVar("T")

LAST_RESORT_S = 5.0
"""How long after the deadline a call into MPI that never lets Python run is ended from outside of Python."""

_REMEDY = "start it with that library's own mpiexec, or with srun --mpi=pmi2 (MPICH) or --mpi=pmix (Open MPI); see docs/mpi.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherHint:
    """What the environment says of this rank before MPI has started; None where it says nothing."""

    rank: int | None
    size: int | None
    is_open_mpi: bool


def launcher_hint(environ: Mapping[str, str]) -> LauncherHint:
    """Read it from the variables of Open MPI (and PRRTE), of Hydra and Slurm's PMI, and of a Slurm step."""

    def number(name: str) -> int | None:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None

    is_open_mpi = "OMPI_COMM_WORLD_SIZE" in environ
    in_step = "SLURM_STEP_ID" in environ
    for rank, size, counts in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", is_open_mpi),
        ("PMI_RANK", "PMI_SIZE", "PMI_RANK" in environ),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", in_step),
    ):
        if counts:
            return LauncherHint(rank=number(rank), size=number(size), is_open_mpi=is_open_mpi)
    return LauncherHint(rank=None, size=None, is_open_mpi=is_open_mpi)


class World:
    """MPI between its start and its end. Made by `mpi_world`; of no use after the block."""

    def __init__(self, mpi: Any) -> None:
        self._all: Any = mpi.COMM_WORLD
        self._node: Any = self._all.Split_type(mpi.COMM_TYPE_SHARED)
        self.rank: int = self._all.Get_rank()
        self.size: int = self._all.Get_size()
        self.node_rank: int = self._node.Get_rank()
        """This rank's number among those of its node."""

    def on_node(self, value: T) -> list[T]:
        """The values of all ranks of this node, by `node_rank`."""
        return self._node.bcast(self._node.gather(value))

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, at rank 0; an empty list elsewhere."""
        return self._all.gather(value) or []

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._all.barrier()

    def broadcast(self, value: T | None = None) -> T:
        """What rank 0 says."""
        return self._all.bcast(value)


@contextmanager
def mpi_world(timeout_s: float) -> Generator[World]:
    """MPI, as long as the block runs, which may take at most timeout_s; then the process ends with exit code 4.

    Raises MissingExtra without mpi4py or an MPI library, UsageError if the program that started the ranks speaks of more of them
    than MPI does.
    """
    hint = launcher_hint(os.environ)
    with _deadline(timeout_s, f"rank {'?' if hint.rank is None else hint.rank}"):
        mpi = _load(hint)
        # Nothing but this thread calls MPI, and not all network stacks offer more.
        mpi.Init_thread(mpi.THREAD_FUNNELED)
        world = World(mpi)
        if hint.size is not None and hint.size > world.size:
            mpi.Finalize()
            library = " ".join(mpi.Get_library_version().strip().splitlines()[0].split()).rstrip(", ")
            raise UsageError(
                "MPI",
                cause=f"the launcher started {hint.size} ranks, but each finds itself alone: "
                f"mpi4py uses {library}, which knows nothing of it",
                remedy=_REMEDY,
            )
        yield world
        world.barrier()
        mpi.Finalize()  # not after an error here, which the others do not know of: it would wait for them


def _load(hint: LauncherHint) -> Any:
    if hint.is_open_mpi and not {"MPI4PY_MPIABI", "MPI4PY_LIBMPI"} & os.environ.keys():
        os.environ["MPI4PY_MPIABI"] = "openmpi"  # else a library of the other ABI may be found first
    try:
        import mpi4py
    except ImportError:
        raise MissingExtra("MPI", cause="mpi4py is not installed", remedy="pip install 'shoal[mpi]'") from None
    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "load the site's MPI module, or pip install mpich; MPI4PY_LIBMPI names a library"
        raise MissingExtra("MPI library", cause=f"mpi4py cannot load it: {cause}", remedy=remedy) from None
    return MPI


@contextmanager
def _deadline(timeout_s: float, who: str, leave: Callable[[int], object] = os._exit) -> Generator[None]:
    """End the process when the block takes longer: a collective call cannot be interrupted."""

    def late() -> None:
        with contextlib.suppress(OSError):
            message = f"shoal: {who}: not all ranks started within {timeout_s:g} s (see the launcher's output, or --start-timeout)"
            print(message, file=sys.stderr, flush=True)
        leave(ExitCode.UNREACHABLE)

    timer = threading.Timer(timeout_s, late)
    timer.daemon = True
    timer.start()
    # MPI_Init may hold Python's lock: this ends the process without it.
    faulthandler.dump_traceback_later(timeout_s + LAST_RESORT_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()
