"""``shoal launch``: starts a fleet inside an allocation.

The one module of the client that knows `slurm`, which builds on the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


def launch(options: argparse.Namespace, settings: Settings) -> int:
    """Launch in the way that was named. Returns the exit code. Raises ShoalError."""
    if hasattr(options, "coordinator"):
        cause = "launch starts a coordinator of its own"
        raise UsageError("--coordinator", cause=cause, remedy="leave it out, or use shoal get with it")
    if options.way == "slurm":
        from ..slurm.launch import launch_slurm

        return launch_slurm(options, settings)
    if options.way == "ray":
        from .ray_launch import launch_ray

        return launch_ray(options)
    from ..slurm.mpi_launcher import launch_mpi

    return launch_mpi(options)
