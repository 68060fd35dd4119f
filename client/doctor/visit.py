"""What the checks of one run share: the settings, what was asked for, and answers that several of them need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

if TYPE_CHECKING:
    from types import TracebackType

    from ...common.settings import Problem, Settings
    from ...common.uri import SourceUri

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What the command line asks to look at. The settings are the effective ones, with defaults for bad values."""

    settings: Settings
    problems: Sequence[Problem]
    environ: Mapping[str, str]
    uris: tuple[SourceUri, ...] = ()
    destinations: tuple[str, ...] = ()  # folders that the sources go to, below agent.root
    profile: str = ""
    named: frozenset[str] = field(default_factory=frozenset[str])  # checks of --only: "there is none" is no excuse
    timeout_s: float = 20.0  # of each check


class Visit:
    """One run. An async context manager that owns the questions under way."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.settings = wishes.settings
        self._asked: dict[str, asyncio.Task[Any]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def once(self, question: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to a question, which is asked once however many checks need it. Raises what asking raises.

        A check that ran out of time leaves the question to the others.
        """
        task = self._asked.get(question)
        if task is None:
            task = self._asked[question] = asyncio.create_task(ask())
        return await asyncio.shield(task)


async def in_thread(call: Callable[[], T]) -> T:
    """Run what blocks. Raises what it raises.

    Not in the loop's own threads: those are waited for at the end, and a dead NFS server may hold one for ever. A thread
    that was given up ends with the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(cast("T", value))
        else:
            answer.set_exception(error)

    def work() -> None:
        value, error = None, None
        try:
            value = call()
        except Exception as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits for it any more

    threading.Thread(target=work, name="doctor", daemon=True).start()
    return await answer
