"""Brings tools in: the built-in ones, a Python file of the user's, entry points ``shoal.tools``. And names whose fault an error is."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

from ..common.collect_records import ToolSpec
from ..common.errors import Conflict, NotFound, ShoalError, ToolFailed
from . import registry

GROUP: Final = "shoal.tools"
_OWN = Path(__file__).parent
_STDLIB = sysconfig.get_path("stdlib")
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def load_tool(spec: ToolSpec) -> registry.Tool:
    """The classes that a spec names, after loading what it loads.

    Raises: NotFound (no such file, no such tool), Conflict (the file is not the one of the spec's digest), ToolFailed (the file
    cannot be run), UsageError.
    """
    registry.check_name(spec.name)
    load_builtin()
    module = load_file(Path(spec.load), digest=spec.load_digest) if spec.load else None
    if registry.missing_stages(spec.name):
        load_entry_points(spec.name)
    return registry.find_tool(spec.name, allow_unregistered=spec.allow_unregistered, module=module)


def load_builtin() -> None:
    """Register the built-in tools."""
    from . import builtin

    builtin.load()


def digest_of(path: Path) -> str:
    """The sha256, in hex, of a file with tools. Raises NotFound."""
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(f"tools file {path}", cause=str(error.strerror), remedy="--load names a Python file") from error


def load_file(path: Path, *, digest: str = "") -> ModuleType:
    """Run a Python file, once for each content, so that its decorators register its classes. What it registered before it failed
    is taken back. Raises NotFound, Conflict, ToolFailed."""
    found = digest_of(path)
    if digest and digest != found:
        raise Conflict(
            f"tools file {path}",
            cause="it is not the file that the run was begun with",
            remedy="bring the same file to every machine, or begin anew with --reset-filtering",
        )
    name = f"shoal_tools_loaded_{found[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ToolFailed(f"tools file {path}", cause="it is not a Python file", remedy="its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    before = [dict(register.classes) for register in registry.REGISTERS]
    sys.modules[name] = module
    try:
        with user_code(str(path), "load", ""):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        for register, classes in zip(registry.REGISTERS, before, strict=True):
            register.classes.clear()
            register.classes.update(classes)
        raise
    return module


def load_entry_points(name: str = "") -> list[ToolFailed]:
    """Load what installed packages offer: the entry points of this name, else all. Returns what could not be loaded; of the
    one that was named, it is raised."""
    failed: list[ToolFailed] = []
    offered = list(entry_points(group=GROUP))
    for point in [each for each in offered if each.name == name] or offered:
        try:
            with user_code(f"entry point {point.name} = {point.value}", "load", ""):
                _load_point(point)
        except ToolFailed as error:
            if point.name == name:
                raise
            failed.append(error)
    return failed


def _load_point(point: EntryPoint) -> None:
    """Its import registers the tools. An entry point may also name a function that does."""
    loaded: object = point.load()
    if not isinstance(loaded, (ModuleType, type)) and callable(loaded):
        loaded()


@contextmanager
def user_code(thing: str, stage: str, where: str) -> Generator[None]:
    """Within the block an error becomes a ToolFailed with its file, line and stage. ShoalErrors pass, and a full disk."""
    try:
        yield
    except ShoalError:
        raise
    except OSError as error:
        if error.errno in _STORAGE:
            raise
        raise _failed(error, thing, stage, where) from error
    except (Exception, SystemExit) as error:
        raise _failed(error, thing, stage, where) from error


def _failed(error: BaseException, thing: str, stage: str, where: str) -> ToolFailed:
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:500]
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # The innermost line outside of our own files and of installed packages is most likely theirs.
        theirs = [frame for frame in frames if not _is_ours(frame.filename)]
        written = [frame for frame in theirs if "site-packages" not in Path(frame.filename).parts]
        frame = (written or theirs or list(frames))[-1]
        place = f"{frame.filename}:{frame.lineno}"
    return ToolFailed(
        f"{thing}, stage {stage}" + (f", {where}" if where else ""),
        cause=f"{text} at {place}",
        remedy="mend it and run again: what is complete is kept",
    )


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    # pyarrow's own frames have the relative names that they had where it was built.
    return path.is_relative_to(_OWN) or not path.is_absolute() or path.is_relative_to(_STDLIB)
