"""Taking up changed settings without a restart: SIGHUP, as ``systemctl reload`` sends it.

The settings are loaded as at the start: the same file, environment and command line. What is wrong with them is logged, and the old
ones stay. Of what changed the log says what is in force now and what needs a restart.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from . import logs
from .errors import ShoalError
from .secrets import SecretRef

if TYPE_CHECKING:
    from .settings import Settings
    from .systemd import Notifier

LIVE_EVERYWHERE = ("log.level", "log.format", "hub.token", "hub.token_*")
LIVE_RULES = ("security.allow", "security.deny", "security.https_only", "security.max_object_size", "security.max_job_size",
              "security.allow_licenses", "security.deny_licenses", "security.unknown_license")  # fmt: skip
LIVE_COORDINATOR = (*LIVE_EVERYWHERE, *LIVE_RULES, "hosts.*.rate", "hosts.*.connections", "fetch.request_rate",
                    "quota.bytes", "quota.jobs", "quota.period")  # fmt: skip
LIVE_AGENT = (
    *LIVE_EVERYWHERE,
    *LIVE_RULES,
    "fetch.rate_limit",
    "agent.upload_rate",
    "security.token",
    "security.token_*",
)
"""Settings, as globs, that take effect without a restart. docs/systemd.md lists them for people."""

log = logs.get_logger("daemon")


class Reloader:
    """The settings in force, and how they are exchanged."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Settings],
        apply: Callable[[Settings], Awaitable[None]],
        notifier: Notifier,
        *,
        live: tuple[str, ...],
    ) -> None:
        """load: as at the start, may raise ShoalError; apply: puts what is `live` in force."""
        self.settings = settings
        self._load = load
        self._apply = apply
        self._notifier = notifier
        self._live = live

    async def reload(self) -> None:
        """Exchange the settings. Never raises: what goes wrong is in the log, and the old ones stay."""
        self._notifier.reloading()
        try:
            settings = self._load()
            changed = list(changes(self.settings, settings))
            in_force = [name for name in changed if any(fnmatchcase(name, pattern) for pattern in self._live)]
            await self._apply(settings)
            logs.reconfigure(settings.log.level, settings.log.format)
        except ShoalError as error:
            log.error("settings.not_reloaded", error=str(error), meaning="the settings of before stay in force")
            self._notifier.ready("settings not reloaded: see the log")
            return
        self.settings = settings
        log.info("settings.reloaded", in_force=in_force)
        late = [name for name in changed if name not in in_force]
        if late:
            log.warning(
                "settings.need_restart", settings=late, meaning="they take effect when this daemon starts again"
            )
        self._notifier.ready("settings reloaded")


@contextmanager
def on_reload(reloader: Reloader, tasks: asyncio.TaskGroup) -> Generator[None]:
    """Within the block SIGHUP reloads, one reload after the other.

    On a terminal it does not: there SIGHUP says that the terminal is gone, and ends the process.
    """
    if os.isatty(0) or os.isatty(2):
        yield
        return
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    async def serve() -> None:
        while True:
            await asked.wait()
            asked.clear()
            await reloader.reload()

    serving = tasks.create_task(serve())
    loop.add_signal_handler(signal.SIGHUP, asked.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        serving.cancel()


def changes(old: Settings, new: Settings) -> Iterator[str]:
    """Names of the settings whose values differ. What is not in a table that is missing in one of both has its default there."""
    from .settings_table import SECTIONS

    before, after = ({name: value for name, _key, value in settings.values()} for settings in (old, new))
    defaults = {section.name: section.cls() for section in SECTIONS if section.named}
    for name in {**before, **after}:
        section, _, rest = name.partition(".")
        default = getattr(defaults.get(section), rest.rpartition(".")[2], None)
        if _differ(before.get(name, default), after.get(name, default)):
            yield name


def _differ(one: object, other: object) -> bool:
    if isinstance(one, SecretRef) and isinstance(other, SecretRef):
        return (one.env, one.file, one.value) != (other.env, other.file, other.value)
    return one != other
