"""Batch scripts: the templates that come with Shoal, and what is filled in for a job of one's own.

A template is a complete script. Its ``#SBATCH`` lines are options of sbatch(1), ``##SBATCH`` lines suggest others; the block between
``# ---- edit`` and ``# ---- end`` is what a person changes to use it by hand. To render one is to replace these, and nothing else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..common.errors import UsageError

TEMPLATES = ("repos", "broadcast", "collect", "tools")
SUGGESTION = "##SBATCH"
EDIT, END = "# ---- edit", "# ---- end"
SCRIPT_BYTES_MAX = 4 << 20
"""Slurm's own limit (max_script_size) is 4 MiB unless a site says otherwise."""

_DIRECTIVE = re.compile(r"#SBATCH\s+'?--([a-z][a-z-]*)(?:=|\b)")
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Directives = Mapping[str, str | None]
"""Options of sbatch by their long name: the value, empty for one that takes none, None for one that the job shall not have."""


def template(name: str) -> str:
    """The text of one of TEMPLATES."""
    return Path(__file__).with_name("templates").joinpath(f"{name}.sh").read_text(encoding="utf-8")


def render(text: str, directives: Directives, shoal: Sequence[str], arguments: Sequence[str], setup: Sequence[str]) -> str:  # fmt: skip
    """A template as the script of one job.

    Args: directives replace those of the same name; shoal is how the program is called; arguments what it is called with; setup
    lines are run before. Raises UsageError for what cannot stand in a script.
    """
    for option, value in directives.items():
        if not _OPTION.fullmatch(option) or (value is not None and _CONTROL.search(value)):
            cause = "it cannot stand in a line of a script"
            raise UsageError(f"--{option} {value!r}", cause=cause, remedy="leave control characters out")
    for line in setup:
        if "\n" in line or "\0" in line:
            raise UsageError(f"--setup {line!r}", cause="it is more than one line", remedy="give --setup once a line")
    block = [*setup, f"SHOAL={_words(shoal)}", f"ARGUMENTS={_words(arguments)}"]
    lines = _with_block(_with_directives(text.splitlines(), directives), block)
    script = "\n".join(lines) + "\n"
    if len(script.encode()) > SCRIPT_BYTES_MAX:
        raise UsageError(
            "the batch script", cause="it is larger than Slurm takes", remedy="put the sources into a file"
        )
    return script


def _words(words: Sequence[str]) -> str:
    """A bash array of these words."""
    return f"({shlex.join(words)})"


def _with_directives(lines: Sequence[str], directives: Directives) -> list[str]:
    found: list[str] = []
    left = dict(directives)
    last = 0
    for line in lines:
        if line.startswith(SUGGESTION):
            continue
        match = _DIRECTIVE.match(line)
        if match is None:
            found.append(line)
            continue
        if match[1] in left:
            value = left.pop(match[1])
            if value is None:
                continue
            line = _directive(match[1], value)
        found.append(line)
        last = len(found)
    added = [_directive(option, value) for option, value in left.items() if value is not None]
    return [*found[:last], *added, *found[last:]]


def _directive(option: str, value: str) -> str:
    return f"#SBATCH {shlex.quote(f'--{option}={value}' if value else f'--{option}')}"


def _with_block(lines: Sequence[str], block: Sequence[str]) -> list[str]:
    first = next(number for number, line in enumerate(lines) if line.startswith(EDIT))
    last = next(number for number, line in enumerate(lines) if line.startswith(END))
    return [*lines[:first], *block, *lines[last + 1 :]]
