"""Datasets from Python: ``from shoal.client import collect``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from ..common.errors import error_class
from ..common.settings import load_settings
from .collecting import Collected, collect_request, outcome, run_request
from .dataset_alone import alone
from .running import run


def collect(config: str | Path, *, settings: Mapping[str, object] | None = None) -> Collected:
    """Collect what the section ``[collect]`` of a configuration file says, as ``shoal collect --config FILE`` does. Blocks.

    Args: settings overrides by name (``{"collect.image_size": 256}``). With ``coordinator.address`` set a fleet does the work.
    Raises: UsageError for a bad configuration, and the `ShoalError` that ended the job; rows that ended as errors raise nothing.
    """
    loaded = load_settings(environ=os.environ, cwd=Path.cwd(), overrides=settings, config_file=Path(config))
    request = collect_request(loaded)
    with nullcontext() if loaded.coordinator.address else alone(loaded, request):
        job, _ = run(run_request(loaded, request), fast=True)
    if job.failure is not None:
        raise error_class(job.failure.code)("shoal collect", cause=job.failure.text)
    return outcome(job)
