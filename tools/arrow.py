"""pyarrow's modules, imported when they are first used.

They are handed out without their types: the published stubs know neither all functions nor what arrays of unknown type may be.
"""

from __future__ import annotations

from types import ModuleType

from ..common.dataset_schema import arrow


def compute() -> ModuleType:
    """``pyarrow.compute``. Raises MissingExtra where pyarrow is not installed."""
    arrow()
    import pyarrow.compute

    return pyarrow.compute


def parquet() -> ModuleType:
    """``pyarrow.parquet``. Raises MissingExtra where pyarrow is not installed."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet


__all__ = ["arrow", "compute", "parquet"]
