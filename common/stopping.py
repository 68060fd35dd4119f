"""How a daemon is told to stop: SIGTERM or SIGINT once drains, a second one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from .errors import ExitCode
from .logs import get_logger

log = get_logger("daemon")


STOPS = (signal.SIGTERM, signal.SIGINT)


_told: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
_ended: list[bool] = []  # one for each block that is over: its process is ending anyway


@contextmanager
def on_stop(callback: Callable[[], None], *, signals: Sequence[signal.Signals] = STOPS) -> Generator[None]:
    """Within the block, the first of these signals calls back in the event loop; the second ends the process."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def signalled(number: int) -> None:
        if seen:
            os._exit(ExitCode.INTERRUPTED)
        seen.append(number)
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        callback()

    for number in signals:
        loop.add_signal_handler(number, signalled, number)
    _told.append((loop, callback))
    try:
        yield
    finally:
        _ended.append(True)
        _told.pop()
        for number in signals:
            loop.remove_signal_handler(number)


def stop_from_within() -> bool:
    """As the first signal, from any thread, but not counted as one: who is told to stop in two ways at the same time, by a signal and
    by its parent's end, still drains. Returns False if nobody listens yet."""
    for loop, callback in _told:
        try:
            loop.call_soon_threadsafe(callback)
        except RuntimeError:  # closed meanwhile
            pass
    return bool(_told or _ended)
