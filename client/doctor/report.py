"""What was found, for people and for programs, and the exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ...common.errors import ExitCode
from ...common.secrets import redact
from ..output import printable
from .records import Examined, Finding, Result

GRAVITY: Final = (
    ExitCode.USAGE,
    ExitCode.NO_SPACE,
    ExitCode.UNREACHABLE,
    ExitCode.NO_ACCESS,
    ExitCode.POLICY,
    ExitCode.VERIFICATION,
    ExitCode.FAILED,
)
"""Exit codes, the gravest first: what must be put right before the others can be judged."""

WORDS: Final = {Result.OK: "ok", Result.WARNING: "warning", Result.FAILED: "FAILED", Result.SKIPPED: "skipped"}
"""Legible without colour: what is wrong is the only word in capitals."""
_COLOURS: Final = {Result.OK: "32", Result.WARNING: "33", Result.FAILED: "1;31", Result.SKIPPED: "2"}
_WIDTH_MIN: Final = 50
_WIDTH_MAX: Final = 120  # longer lines are hard to read


def exit_code(examined: Sequence[Examined]) -> ExitCode:
    """0 when nothing failed, else the gravest failure's."""
    codes = {finding.exit_code for each in examined for finding in each.findings if finding.result is Result.FAILED}
    return next((code for code in GRAVITY if code in codes), ExitCode.FAILED if codes else ExitCode.OK)


def counts(examined: Sequence[Examined]) -> dict[Result, int]:
    """How many findings there are of each kind."""
    found = [finding.result for each in examined for finding in each.findings]
    return {result: found.count(result) for result in Result}


def summary(examined: Sequence[Examined]) -> str:
    """All of it in one line."""
    number = counts(examined)
    words = {Result.WARNING: "warning" if number[Result.WARNING] == 1 else "warnings"}
    return ", ".join(
        f"{number[result]} {words.get(result, result.value)}"
        for result in Result
        if number[result] or result is Result.FAILED
    )


def document(examined: Sequence[Examined]) -> dict[str, Any]:
    """All of it as plain JSON values."""
    code = exit_code(examined)
    return {
        "ok": code is ExitCode.OK,
        "exit_code": int(code),
        "counts": {result.value: count for result, count in counts(examined).items()},
        "checks": [
            {
                "check": each.check.name,
                "group": each.check.group.value,
                "subject": shown(finding.subject),
                "result": finding.result.value,
                "seen": shown(finding.seen),
                "remedy": shown(finding.remedy),
                "code": finding.code,
                "exit_code": int(finding.exit_code),
                "took_s": round(each.took_s, 3),
            }
            for each in examined
            for finding in each.findings
        ],
    }


def table(examined: Sequence[Examined], *, width: int, colour: bool) -> str:
    """All of it for people: a heading per group, a row per finding, the remedy below it. width in columns."""
    lines: list[str] = []
    width = max(_WIDTH_MIN, min(width, _WIDTH_MAX))
    name_width = max((len(each.check.name) for each in examined), default=0)
    group = ""
    for each in examined:
        if each.check.group != group:
            group = each.check.group
            lines += ["", group.value] if lines else [group.value]
        for number, finding in enumerate(each.findings):
            name = each.check.name if number == 0 or finding.result is Result.FAILED else ""
            lines += _row(finding, name.ljust(name_width), width=width, colour=colour)
    return "\n".join(line.rstrip() for line in lines)


def shown(text: str) -> str:
    """A text that may be shown: one line, printable, without what looks like a credential."""
    return printable(redact(" ".join(text.split())))


def _row(finding: Finding, name: str, *, width: int, colour: bool) -> Iterator[str]:
    word = WORDS[finding.result].ljust(9)
    if colour:
        word = f"\x1b[{_COLOURS[finding.result]}m{word}\x1b[0m"
    indent = " " * (2 + 9 + len(name) + 2)
    text = f"{shown(finding.subject)}: {shown(finding.seen)}" if finding.subject else shown(finding.seen)
    room = width - len(indent)
    for number, line in enumerate(_wrapped(text, room)):
        yield f"  {word}{name}  {line}" if number == 0 else indent + line
    if finding.remedy and finding.result in (Result.WARNING, Result.FAILED):
        for number, line in enumerate(_wrapped(shown(finding.remedy), room - 3)):
            yield f"{indent}{'-> ' if number == 0 else '   '}{line}"


def _wrapped(text: str, width: int) -> list[str]:
    # URLs, commands and folders are to be copied: they may stick out rather than be cut.
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
