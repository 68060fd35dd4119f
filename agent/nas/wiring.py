"""Builds what copies to a NAS from settings: for the daemon, for runs on one machine, and for ``shoal nas``."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .copier import Copier
from .options import NasOptions

if TYPE_CHECKING:
    from ...common.settings import Settings


def nas_options(settings: Settings) -> NasOptions:
    """The options of the copies."""
    nas = settings.nas
    return NasOptions(
        path=nas.path,
        state=settings.agent.data,
        enabled=nas.enabled,
        preserve_structure=nas.preserve_structure,
        delete_after_copy=nas.delete_after_copy,
        require_mount=nas.require_mount,
        recheck=nas.recheck,
        copies=nas.copies,
        rate_limit=float(nas.rate_limit),
        memory_limit=nas.memory_limit,
        backoff_initial_s=max(0.01, nas.backoff_initial),
        backoff_max_s=max(0.01, nas.backoff_max),
        drain_s=nas.drain,
        stall_s=nas.stall,
        root=settings.agent.root,
        allow_paths=settings.agent.allow_paths,
    )


def make_copier(settings: Settings, *, owner: str, queue_folder: Path | None = None) -> Copier:
    """A copier that is not started yet: use it as an async context manager. See `Copier`."""
    return Copier(
        nas_options(settings), owner=owner, clock=time.monotonic, rng=random.Random(), queue_folder=queue_folder
    )
