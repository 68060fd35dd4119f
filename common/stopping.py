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
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
