"""For tests of a coordinator that has nothing to do with URL tables."""

from __future__ import annotations

from pathlib import Path

from shoal.common.policy import Policy
from shoal.coordinator.collecting import Collections
from shoal.coordinator.store.runner import StoreRunner


def no_tables(store: StoreRunner) -> Collections:
    """What a coordinator needs for datasets, where no table will come."""
    return Collections(
        store,
        work_folder=lambda spec, to: Path("/nonexistent"),
        dataset_of=lambda to: None,
        policy=Policy(),
        wall_clock=lambda: 0.0,
    )
