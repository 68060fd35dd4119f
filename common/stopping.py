"""How a daemon is told to stop: SIGTERM or SIGINT once drains, a second one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

from .errors import ExitCode
from .logs import get_logger

log = get_logger("daemon")


@contextmanager
def on_stop(callback: Callable[[], None]) -> Generator[None]:
    """Within the block, the first signal calls back in the event loop; the second ends the process."""
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def signalled(number: int) -> None:
        if seen:
            os._exit(ExitCode.INTERRUPTED)
        seen.append(number)
        log.info("daemon.stopping", signal=signal.Signals(number).name)
        callback()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
