"""``shoal doctor``: what the command line asks, and what it is answered."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...common.errors import ExitCode, UsageError
from ...common.settings import Problem, Settings, load_anyway
from ...common.units import parse_duration
from ...common.uri import HubUri, SourceUri, parse_list_file, parse_uri
from ..running import run as run_loop
from .checks import CHECKS, chosen
from .examination import examine
from .report import document, exit_code, summary, table
from .visit import Wishes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .records import Check


def run(options: argparse.Namespace, overrides: Mapping[str, object]) -> int:
    """Examine and print. Returns the exit code. Raises UsageError for what the command line alone got wrong."""
    from ..main import configure_logs

    if options.list:
        width = max(len(check.name) for check in CHECKS)
        print("\n".join(f"{check.name.ljust(width)}  {check.about}" for check in CHECKS))
        return ExitCode.OK
    checks = chosen(options.only, options.skip)
    timeout_s = parse_duration(options.timeout)
    if timeout_s <= 0:
        raise UsageError(f"--timeout {options.timeout}", cause="it must be above 0")
    settings, problems = _settings(options, overrides)
    configure_logs("doctor", settings)
    wishes = _wishes(options, settings, problems, timeout_s)
    return run_loop(_examine(checks, wishes, as_json=options.json))


async def _examine(checks: Sequence[Check], wishes: Wishes, *, as_json: bool) -> int:
    """Also prints, because the end of the loop waits for a resolver that does not answer."""
    examined = await examine(checks, wishes)
    if as_json:
        print(json.dumps(document(examined), indent=2, ensure_ascii=False), flush=True)
    else:
        print(table(examined, width=_width(), colour=_colour(wishes.settings)), flush=True)
        print(f"\n{summary(examined)}", file=sys.stderr)
    return exit_code(examined)


def _settings(options: argparse.Namespace, overrides: Mapping[str, object]) -> tuple[Settings, list[Problem]]:
    """The settings as far as they can be used. A file that cannot be read at all is one more problem, not the end."""
    named = getattr(options, "config", None)
    config_file = Path(named) if named else None
    cwd = Path.cwd()
    try:
        return load_anyway(environ=os.environ, cwd=cwd, overrides=overrides, config_file=config_file)
    except UsageError as error:
        from ...common.settings_sources import Origin, Rank

        settings, problems = load_anyway(
            environ={**os.environ, "XDG_CONFIG_HOME": os.devnull}, cwd=Path(os.devnull), overrides=overrides
        )
        broken = Problem(
            name=error.thing, origin=Origin(Rank.FILE, "nothing of it is used"), cause=error.cause, remedy=error.remedy
        )
        return settings, [broken, *problems]


def _wishes(options: argparse.Namespace, settings: Settings, problems: Sequence[Problem], timeout_s: float) -> Wishes:
    uris = _uris(options, settings)
    named = frozenset(name.strip().lower() for text in options.only for name in text.split(","))
    return Wishes(
        settings=settings,
        problems=problems,
        environ=dict(os.environ),
        uris=uris,
        destinations=_destinations(options.to, uris, settings),
        profile=options.profile,
        named=named,
        timeout_s=timeout_s,
    )


def _uris(options: argparse.Namespace, settings: Settings) -> tuple[SourceUri, ...]:
    endpoints = settings.hub.endpoint
    found = [parse_uri(text, bare_hub=True, hub_endpoints=endpoints) for text in options.uris]
    if options.from_file == "-":
        found += parse_list_file(sys.stdin, bare_hub=True, hub_endpoints=endpoints)
    elif options.from_file:
        try:
            with Path(options.from_file).open(encoding="utf-8") as file:
                found += parse_list_file(file, bare_hub=True, hub_endpoints=endpoints)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--from-file {options.from_file}", cause=str(error)) from None
    return tuple(dict.fromkeys(found))


def _destinations(to: str | None, uris: tuple[SourceUri, ...], settings: Settings) -> tuple[str, ...]:
    """The folders that ``shoal get`` with the same words would write to."""
    if to is not None and to != "hf-cache":
        return (str(Path.cwd() / Path(to).expanduser()),)
    into_cache = to == "hf-cache" or not uris or any(isinstance(uri, HubUri) for uri in uris)
    here = to is None and any(not isinstance(uri, HubUri) for uri in uris)
    return (*((str(settings.hub.cache),) if into_cache else ()), *((str(Path.cwd()),) if here else ()))


def _width() -> int:
    return shutil.get_terminal_size().columns


def _colour(settings: Settings) -> bool:
    return settings.log.color == "always" or (settings.log.color == "auto" and sys.stdout.isatty())
