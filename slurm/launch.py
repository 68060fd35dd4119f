"""``shoal launch slurm``: outside of a job it submits one, inside of a job it runs there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .allocation import allocation
from .batch import template

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


def launch_slurm(options: argparse.Namespace, settings: Settings) -> int:
    """Submit, or run. Returns the exit code. Raises ShoalError."""
    if options.print_template:
        print(template(options.print_template), end="")
        return 0
    here = None if options.submit else allocation(os.environ)
    if here is None:
        from .submission import submit

        return submit(options, settings)
    from .job_run import run_here

    return run_here(options, settings, here)
