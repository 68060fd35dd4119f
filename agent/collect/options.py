"""What the collecting part of an agent may do and spend, as plain values."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..engine.options import EngineOptions

if TYPE_CHECKING:
    from ...common.s3_profiles import S3Store

BATCHES_MAX: Final = 64  # at once: most hosts are slow, and a batch that waits costs next to nothing
OVERVIEW_S: Final = 15.0  # between two overviews that an agent writes while a run goes on
NAMES_S: Final = 60.0  # an address is asked for anew after so long
THREADS: Final = 2  # that write segments and Parquet files
JOB_IDLE_S: Final = 60.0  # a job without a lease for so long is closed here


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectOptions:
    """Limits and settings of a collector. Sizes in bytes, times in seconds."""

    engine: EngineOptions  # root, allowed folders, TLS, proxies, https_only
    memory_limit: int = 128 << 20  # of bodies under way
    image_workers: int = 0  # processes; 0: one for each core
    batches_max: int = BATCHES_MAX
    staging: Path | None = None  # where batches for a store are made; None: none can be
    tool_paths: tuple[Path, ...] | None = ()  # folders that tools are loaded from; None: any
    stores: Callable[[str], S3Store] | None = None  # a store by the name of its profile

    @property
    def workers(self) -> int:
        """Image workers, counted."""
        return self.image_workers or len(os.sched_getaffinity(0))
