"""pyarrow as this package uses it: imported late, and typed loosely, because its stubs fit neither its arrays nor its scalars."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

Frame: TypeAlias = Any
"""A pyarrow.RecordBatch."""
Table: TypeAlias = Any
"""A pyarrow.Table."""
Schema: TypeAlias = Any
"""A pyarrow.Schema."""


def compute() -> Any:
    """pyarrow.compute."""
    return import_module("pyarrow.compute")


def parquet() -> Any:
    """pyarrow.parquet."""
    return import_module("pyarrow.parquet")


def values(column: Any) -> list[Any]:
    """A column's values as Python's own."""
    return column.to_pylist()
