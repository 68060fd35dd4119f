"""Runs a command's coroutine and lets the one error that ended it out of the task groups that wrapped it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from ..common.errors import ShoalError

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, fast: bool = False) -> T:
    """As `asyncio.run`; fast: by uvloop where it is built, for work that is worth its import. Raises the first ShoalError of an
    exception group, else what was raised.
    """
    try:
        if not fast:
            return asyncio.run(main)
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            return runner.run(main)
    except BaseExceptionGroup as group:
        found = _first(group)
        if found is None:
            raise
        raise found from group


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _first(group: BaseExceptionGroup[BaseException]) -> ShoalError | None:
    for error in group.exceptions:
        if isinstance(error, ShoalError):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = _first(cast("BaseExceptionGroup[BaseException]", error))
            if found is not None:
                return found
    return None
