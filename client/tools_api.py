"""Tools from Python: ``from shoal.client import apply_tool``. And how settings become what a tool's run is told."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.collect_records import ToolSpec
from ..common.errors import UsageError
from ..common.settings import Settings, load_settings
from ..tools.loading import digest_of, load_tool
from ..tools.local import run_tool
from ..tools.records import ENGINE_OPTIONS, ToolReport
from ..tools.stages import Tell, silent
from ..tools.state import RESETS

if TYPE_CHECKING:
    from collections.abc import Callable

    Execute = Callable[[ToolSpec, Path, Tell], ToolReport]


def apply_tool(
    config: str | Path | None,
    name: str,
    *,
    data: str | Path | None = None,
    load: str | Path | None = None,
    options: Mapping[str, object] | None = None,
    reset: str = "",
    allow_unregistered: bool = False,
    settings: Mapping[str, object] | None = None,
) -> ToolReport:
    """Run a tool over a collected dataset and wait for it. Stopped, call it again: it goes on.

    Args: config, the configuration file (its [tools] says where the data are), or None for the usual places; data, load and options
    stand before what it says; reset is "", "filtering", "scheduling" or "runners"; settings overrides by name.
    Returns what became of it; a partition that could not be worked on is among its problems. Raises the ShoalError that ended it.
    """
    given: dict[str, object] = dict(settings or {})
    if data is not None:
        given["tools.data"] = str(data)
    if load is not None:
        given["tools.load"] = str(load)
    loaded = load_settings(
        environ=os.environ,
        cwd=Path.cwd(),
        overrides=given,
        config_file=None if config is None else Path(config).expanduser(),
    )
    pairs = [(key, _text(value)) for key, value in (options or {}).items()]
    spec = tool_spec(loaded, name, pairs, reset=reset, allow_unregistered=allow_unregistered)
    return executor(loaded)(spec, dataset_folder(loaded), silent)


def executor(settings: Settings) -> Execute:
    """What runs a tool: the agents of the configured coordinator, else this machine."""
    if settings.coordinator.address:
        from .tools_fleet import run_on_fleet

        return partial(run_on_fleet, settings)
    return run_tool


def dataset_folder(settings: Settings) -> Path:
    """The folder of the dataset. Raises UsageError when none is named."""
    if not settings.tools.data:
        raise UsageError(
            "shoal tools", cause="no dataset was named", remedy="--data DIR, or tools.data in the settings"
        )
    return Path(settings.tools.data).expanduser().absolute()


def tool_spec(
    settings: Settings,
    name: str,
    options: Iterable[tuple[str, str]],
    *,
    reset: str = "",
    allow_unregistered: bool = False,
    flags: Iterable[str] = (),
) -> ToolSpec:
    """What a run is told. Args: options stand before the settings; flags are options that were given as flags of their own.

    Raises: UsageError for an option that the tool does not know, NotFound for a tool that is not there, and what loading raises.
    """
    tools = settings.tools
    if reset and reset not in RESETS:
        raise UsageError(f"reset {reset}", cause="there is no such stage", remedy=", ".join(RESETS))
    load = tools.load.absolute() if tools.load else None
    spec = ToolSpec(
        name=name,
        load=str(load or ""),
        load_digest=digest_of(load) if load else "",
        allow_unregistered=allow_unregistered,
        reset=reset,
        workers=tools.workers,
    )
    known = load_tool(spec).options
    given = dict(options)
    if known is not None:
        for key in (*given, *flags):
            _check_option(name, key, {**known, **ENGINE_OPTIONS})
    values = {
        "threshold_size": _text(tools.threshold_size),
        "new_size": _text(tools.new_size),
        "perceptual": _text(tools.perceptual),
        "remove": _text(tools.remove),
        "quality": _text(settings.collect.image_quality),
        **tools.options,
    }
    # A tool that takes any option gets those that were meant for it: what built-in tools are set to is not.
    meant = tools.options if known is None else {key: value for key, value in values.items() if key in known}
    engine = {"unit_size": _text(tools.unit_size), "max_pixels": _text(settings.collect.max_pixels)}
    return ToolSpec(
        name=spec.name,
        load=spec.load,
        load_digest=spec.load_digest,
        allow_unregistered=spec.allow_unregistered,
        reset=spec.reset,
        options=tuple(sorted({**engine, **meant, **given}.items())),
        workers=spec.workers,
    )


def _check_option(name: str, key: str, known: Mapping[str, str]) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        raise UsageError(
            f"option {key}",
            cause=f"tool {name} has no such option",
            remedy=f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(known))}",
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
