"""Runs a command's coroutine and lets the one error that ended it out of the task groups that wrapped it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from ..common.errors import ShoalError

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`. Raises the first ShoalError of an exception group, else what was raised."""
    try:
        return asyncio.run(main)
    except BaseExceptionGroup as group:
        found = _first(group)
        if found is None:
            raise
        raise found from group


def _first(group: BaseExceptionGroup[BaseException]) -> ShoalError | None:
    for error in group.exceptions:
        if isinstance(error, ShoalError):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = _first(cast("BaseExceptionGroup[BaseException]", error))
            if found is not None:
                return found
    return None
