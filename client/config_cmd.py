"""``shoal config init | show | check | path | install-systemd``: what they print and how they end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from ..common.errors import ExitCode, NotWritable, UsageError
from ..common.secrets import redact
from ..common.settings import Settings, check_file, load_settings
from ..common.settings_docs import sample, toml_value
from ..common.settings_sources import find_file, search_list, unknown_variables

if TYPE_CHECKING:
    import argparse


class Outcome(NamedTuple):
    """What a command has to say (the answer: it goes to standard output) and its exit code."""

    text: str
    exit_code: ExitCode = ExitCode.OK


def run(options: argparse.Namespace, overrides: Mapping[str, object]) -> int:
    """Run the action that was parsed and print its answer. Returns the exit code. Raises UsageError, NotWritable."""
    outcome = _outcome(options, overrides)
    print(outcome.text)
    return outcome.exit_code


def _outcome(options: argparse.Namespace, overrides: Mapping[str, object]) -> Outcome:
    environ, cwd = os.environ, Path.cwd()
    config_file = Path(options.config) if getattr(options, "config", None) else None
    if options.action == "init":
        return config_init(cwd / options.file, force=options.force)
    if options.action == "check":
        file = Path(options.file) if options.file else None
        return config_check(file, config_file=config_file, environ=environ, cwd=cwd)
    if options.action == "install-systemd":
        from . import install_systemd

        return Outcome(
            install_systemd.run(
                root=options.target_root,
                user=options.user,
                agents=options.agents,
                dry_run=options.dry_run,
                binary=options.binary,
                writable=options.writable,
                force=options.force,
            )
        )
    if options.action == "path":
        return config_path(config_file=config_file, environ=environ, cwd=cwd)
    settings = load_settings(environ=environ, cwd=cwd, overrides=overrides, config_file=config_file)
    return config_show(settings, environ=environ, as_json=options.json)


def config_init(path: Path, *, force: bool = False) -> Outcome:
    """Write the commented sample. Only the owner may read it: people put tokens into it.

    Raises: UsageError when the file exists and not ``force``; NotWritable.
    """
    if not force and path.exists():
        raise UsageError(f"file {path}", cause="it exists already", remedy="use --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotWritable(f"file {path}", cause=error.strerror or str(error), remedy="name another file") from None
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(sample())
    return Outcome(f"wrote {path}")


def config_show(settings: Settings, *, environ: Mapping[str, str], as_json: bool = False) -> Outcome:
    """Every effective value and where it came from. Secrets are not shown, only whether there is one."""
    rows = [(name, _shown(key.kind.show(value)), settings.origin_of(name)) for name, key, value in settings.values()]
    ignored = unknown_variables(environ)
    if as_json:
        import json

        document = {
            "config_file": str(settings.config_file) if settings.config_file else None,
            "settings": {name: {"value": value, "origin": str(origin)} for name, value, origin in rows},
            "ignored_variables": ignored,
        }
        return Outcome(json.dumps(document, indent=2, ensure_ascii=False))
    texts = [(f"{name} = {toml_value(value)}", str(origin)) for name, value, origin in rows]
    width = min(max(len(text) for text, _ in texts), 60)
    lines = [f"{text:<{width}}  # {origin}" for text, origin in texts]
    lines += [f"# environment variable {name} is no setting and is ignored" for name in ignored]
    return Outcome("\n".join(lines))


def config_check(path: Path | None, *, config_file: Path | None, environ: Mapping[str, str], cwd: Path) -> Outcome:
    """Every problem of the file named, or of the one that is in use.

    Raises: UsageError when there is no file, or it cannot be read or is not TOML.
    """
    found = path or find_file(config_file, environ, cwd)
    if found is None:
        searched = ", ".join(str(candidate) for candidate in search_list(None, environ, cwd))
        raise UsageError(
            "configuration file", cause=f"there is none: {searched}", remedy="shoal config init writes one"
        )
    problems = check_file(found, environ=environ, cwd=cwd)
    if not problems:
        return Outcome(f"{found}: no problems")
    lines: list[str] = []
    for problem in problems:
        line = problem.origin.line
        where = f"{found}:{line}" if line else str(found)
        lines.append(f"{where}: {problem.name}: {problem.cause}{f' ({problem.remedy})' if problem.remedy else ''}")
    return Outcome("\n".join(lines), ExitCode.USAGE)


def config_path(*, config_file: Path | None, environ: Mapping[str, str], cwd: Path) -> Outcome:
    """Where the file is looked for, and which one is used."""
    used = find_file(config_file, environ, cwd)
    marks = {True: "used", False: "not there"}
    lines: list[str] = []
    for candidate in search_list(config_file, environ, cwd):
        state = marks[candidate.is_file()] if candidate == used or not candidate.is_file() else "not used"
        lines.append(f"{candidate}  # {state}")
    return Outcome("\n".join(lines))


def _shown(value: object) -> object:
    """A value without the credentials that a URL or a list of URLs may hold."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_shown(item) for item in cast("list[object]", value)]
    return value
