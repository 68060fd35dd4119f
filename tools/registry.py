"""The three registries of tools: which class is the filter, the scheduler, the runner of a name.

The names are those of the reference tool (Imageomics distributed-downloader)::

    @FilterRegister("mytool")
    class MyFilter(FilterToolBase): ...
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Generic, TypeVar, cast

from ..common.errors import Conflict, NotFound, UsageError
from .bases import DefaultScheduler, FilterToolBase, PythonFilterToolBase, ReportRunnerTool, RunnerToolBase, ToolsBase
from .bases import SchedulerToolBase as SchedulerBase

T = TypeVar("T", bound=ToolsBase)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Register(Generic[T]):
    """Name -> class of one stage. Called with a name it gives a decorator that puts a class under it."""

    def __init__(self, stage: str, base: type[T], default: type[T]) -> None:
        self.stage: Final = stage
        self.base: Final = base
        self.default: Final = default
        self.classes: Final[dict[str, type[T]]] = {}

    def __call__(self, name: str) -> Callable[[type[Any]], type[Any]]:
        """A decorator. Raises UsageError for a bad name or class, Conflict when the name has another class already."""
        check_name(name)

        def put(cls: type[Any]) -> type[Any]:
            if not issubclass(cast("object", cls), self.base):  # pyright: ignore[reportArgumentType]
                raise UsageError(
                    f"{self.stage} {name}",
                    cause=f"{cls.__name__} does not derive from {self.base.__name__}",
                    remedy=f"class {cls.__name__}({self.base.__name__})",
                )
            there = self.classes.get(name)
            if there is not None and there is not cls:
                raise Conflict(
                    f"{self.stage} {name}",
                    cause=f"{there.__module__}.{there.__qualname__} has this name already",
                    remedy="choose another name",
                )
            self.classes[name] = cls
            return cls

        return put


FilterRegister: Final = Register("filter", FilterToolBase, PythonFilterToolBase)
SchedulerRegister: Final = Register("scheduler", SchedulerBase, DefaultScheduler)
RunnerRegister: Final = Register("runner", RunnerToolBase, ReportRunnerTool)

REGISTERS: Final[tuple[Register[Any], ...]] = (FilterRegister, SchedulerRegister, RunnerRegister)


class Tool:
    """The three classes that a name stands for."""

    def __init__(
        self, name: str, filter: type[FilterToolBase], scheduler: type[SchedulerBase], runner: type[RunnerToolBase]
    ) -> None:
        self.name: Final = name
        self.filter: Final = filter
        self.scheduler: Final = scheduler
        self.runner: Final = runner

    @property
    def options(self) -> dict[str, str] | None:
        """Options that the stages know, with what they mean; None when a stage takes any."""
        known: dict[str, str] = {}
        for cls in (self.filter, self.scheduler, self.runner):
            if cls.OPTIONS is None:
                return None
            known.update(cls.OPTIONS)
        return known


def check_name(name: str) -> None:
    """Raises UsageError for a name that cannot be a folder's name everywhere."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"tool {name!r}", cause="it is not a name", remedy="letters, digits, '_' and '-', at most 64, as in my_tool"
        )


def names() -> list[str]:
    """Every name that some registry knows."""
    return sorted({name for register in REGISTERS for name in register.classes})


def missing_stages(name: str) -> list[str]:
    """The stages that no class is registered for."""
    return [register.stage for register in REGISTERS if name not in register.classes]


def find_tool(name: str, *, allow_unregistered: bool, module: ModuleType | None = None) -> Tool:
    """The classes of a name. Raises UsageError for a bad name, NotFound for one that is not registered, or only in part.

    With allow_unregistered a stage that is not registered is, in this order: a class of module (a loaded file) that derives from
    the stage's base and whose `filter_name` is the name; the stage's default. The defaults take every partition, balance
    units by bytes, and list the chosen rows without changing anything.
    """
    check_name(name)
    missing = missing_stages(name)
    if missing and not allow_unregistered:
        known = names()
        close = difflib.get_close_matches(name, known, 1)
        if len(missing) < len(REGISTERS):
            cause = f"it has no {' and no '.join(missing)}"
            remedy = "register it, or take the default with --allow-unregistered"
        else:
            cause = "no tool of this name is registered"
            remedy = (
                f"did you mean {close[0]}?" if close else "--load FILE.py loads tools of your own; shoal tools list"
            )
        raise NotFound(f"tool {name}", cause=cause, remedy=remedy)
    return Tool(
        name,
        _stage(FilterRegister, name, module),
        _stage(SchedulerRegister, name, module),
        _stage(RunnerRegister, name, module),
    )


def _stage(register: Register[T], name: str, module: ModuleType | None) -> type[T]:
    if name in register.classes:
        return register.classes[name]
    values: list[Any] = list(vars(module).values()) if module is not None else []
    for value in values:
        if isinstance(value, type) and issubclass(value, register.base) and value.filter_name == name:
            return value
    return register.default
