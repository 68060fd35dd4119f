"""What changed between two settings, and what a reload does with it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.agent.daemon import RateMeter
from shoal.common import logs
from shoal.common.errors import UsageError
from shoal.common.records import Progress
from shoal.common.reloading import LIVE_AGENT, LIVE_COORDINATOR, Reloader, changes
from shoal.common.settings import Settings, load_settings
from shoal.common.settings_sources import variable_name
from shoal.common.settings_table import SECTIONS
from shoal.common.systemd import Notifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    logs.configure("info", "json", text)
    yield text
    logs.configure()


def settings(tmp_path: Path, **overrides: object) -> Settings:
    overrides = {"log__format": "json", **overrides}
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_settings(environ={"HOME": str(tmp_path)}, cwd=tmp_path, overrides=given)


def test_what_changed_is_named(tmp_path: Path) -> None:
    before = settings(tmp_path, fetch__attempts="3", hub__token="one")
    assert list(changes(before, settings(tmp_path, hub__token="one"))) == []  # 3 is the default
    after = settings(tmp_path, fetch__attempts="4", hub__token="two", **{"hosts.a.example.rate": "5"})
    assert set(changes(before, after)) == {"fetch.attempts", "hub.token", "hosts.a.example.rate"}
    assert set(changes(after, before)) == {"fetch.attempts", "hub.token", "hosts.a.example.rate"}


class Applied:
    """What was put in force."""

    def __init__(self, error: Exception | None = None) -> None:
        self.settings: list[Settings] = []
        self._error = error

    async def __call__(self, settings: Settings) -> None:
        if self._error is not None:
            raise self._error
        self.settings.append(settings)


async def test_a_reload_says_what_is_in_force_and_what_waits(tmp_path: Path, log: io.StringIO) -> None:
    old, new = settings(tmp_path), settings(tmp_path, fetch__rate_limit="1MiB", agent__zone="r7", log__level="info")
    applied = Applied()
    reloader = Reloader(old, lambda: new, applied, Notifier(), live=LIVE_AGENT)
    await reloader.reload()
    assert reloader.settings is new and applied.settings == [new]
    done, late = map(json.loads, log.getvalue().splitlines())
    assert (done["action"], done["in_force"]) == ("settings.reloaded", ["fetch.rate_limit"])
    assert (late["action"], late["level"], late["settings"]) == ("settings.need_restart", "warning", ["agent.zone"])


async def test_the_level_of_the_log_changes_at_once(tmp_path: Path, log: io.StringIO) -> None:
    reloader = Reloader(
        settings(tmp_path), lambda: settings(tmp_path, log__level="error"), Applied(), Notifier(), live=LIVE_AGENT
    )
    await reloader.reload()
    assert log.getvalue() == ""  # that it was reloaded is said at the level that holds now
    assert not logs.is_enabled("warning")


@pytest.mark.parametrize("where", ["load", "apply"])
async def test_what_is_wrong_leaves_the_old_ones(where: str, tmp_path: Path, log: io.StringIO) -> None:
    error = UsageError("setting fetch.attempts", cause="it is no number")
    old = settings(tmp_path)

    def load() -> Settings:
        if where == "load":
            raise error
        return replace(old)

    reloader = Reloader(old, load, Applied(error), Notifier(), live=LIVE_COORDINATOR)
    await reloader.reload()
    assert reloader.settings is old
    (told,) = map(json.loads, log.getvalue().splitlines())
    assert (told["action"], told["level"]) == ("settings.not_reloaded", "error") and "no number" in told["error"]


def test_every_live_setting_exists_and_is_documented() -> None:
    names = {
        f"{section.name}.{'*.' if section.named else ''}{key.name}" for section in SECTIONS for key in section.table()
    }
    text = (ROOT / "docs/systemd.md").read_text(encoding="utf-8")
    for pattern in {*LIVE_COORDINATOR, *LIVE_AGENT}:
        stem = pattern.removesuffix("_*")
        assert stem in names, pattern
        assert f"`{stem.replace('*', 'NAME')}`" in text, pattern


def test_the_sample_environment_names_settings() -> None:
    known = {variable_name(section, key) for section in SECTIONS if not section.named for key in section.table()}
    for name in ("coordinator.env", "agent.env"):
        lines = (ROOT / "systemd" / name).read_text(encoding="utf-8").splitlines()
        named = [
            line.lstrip("#").partition("=")[0]
            for line in lines
            if line.lstrip("#").startswith("SHOAL_") and "=" in line
        ]
        assert named and set(named) <= known


def test_the_rate_for_people() -> None:
    meter = RateMeter()
    assert meter.rate([Progress("r1", 1, 100)], 10.0) == 0
    assert meter.rate([Progress("r1", 1, 300), Progress("r2", 2, 50)], 12.0) == 125
    assert meter.rate([Progress("r2", 2, 50)], 14.0) == 0
    assert meter.rate([], 14.0) == 0
