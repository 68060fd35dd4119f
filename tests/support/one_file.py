"""A destination with one file, for tests of a `Transfer` without a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from shoal.common.records import ObjectSpec

F = TypeVar("F")


class OneFile(Generic[F]):
    """Whatever is opened is this file."""

    path = Path()

    def __init__(self, file: F) -> None:
        self.file = file

    def open_partial(self, spec: ObjectSpec, *, create: bool) -> F:
        return self.file
