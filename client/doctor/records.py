"""What a check is, and what it finds."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...common.errors import ExitCode, ShoalError

if TYPE_CHECKING:
    from .visit import Visit


class Result(enum.StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"  # it works, or may work; somebody should know
    FAILED = "failed"
    SKIPPED = "skipped"  # there was nothing to look at, or it could not be looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a check found about one thing. Texts are for people and hold no secret; ``report`` redacts them once more."""

    result: Result
    seen: str
    subject: str = ""  # the host, the folder, the source; "" where a check has only one thing to look at
    remedy: str = ""
    exit_code: ExitCode = ExitCode.OK  # of the command, if it failed
    code: str = ""  # of the error behind it, as in common/errors.py


def ok(seen: str, *, subject: str = "") -> Finding:
    """All right."""
    return Finding(result=Result.OK, seen=seen, subject=subject)


def warning(seen: str, *, remedy: str, subject: str = "") -> Finding:
    """It works, with a caveat."""
    return Finding(result=Result.WARNING, seen=seen, subject=subject, remedy=remedy)


def skipped(reason: str, *, subject: str = "") -> Finding:
    """Not looked at."""
    return Finding(result=Result.SKIPPED, seen=reason, subject=subject)


def failed(
    seen: str, *, remedy: str, subject: str = "", exit_code: ExitCode = ExitCode.FAILED, code: str = ""
) -> Finding:
    """Wrong."""
    return Finding(result=Result.FAILED, seen=seen, subject=subject, remedy=remedy, exit_code=exit_code, code=code)


def failed_by(error: ShoalError, *, subject: str = "", remedy: str = "") -> Finding:
    """Wrong, as an error tells. remedy takes the place of the error's own."""
    same = not error.thing or not subject or error.thing.endswith(subject)
    return Finding(
        result=Result.FAILED,
        seen=error.cause if same else f"{error.thing}: {error.cause}",
        subject=subject or error.thing,
        remedy=remedy or error.remedy or "see docs/doctor.md",
        exit_code=error.exit_code,
        code=error.code,
    )


class Group(enum.StrEnum):
    """Headings of the report, in its order."""

    CONFIGURATION = "Configuration"
    NETWORK = "Network"
    ACCESS = "Access"
    DISK = "Disk"
    MACHINE = "Machine"
    CLUSTER = "Cluster"
    FLEET = "Fleet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the table of checks."""

    name: str  # as --only and --skip take it
    group: Group
    about: str  # what is looked at: a phrase for docs/doctor.md and --list
    run: Callable[[Visit], Awaitable[Sequence[Finding]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """A check that was run: at least one finding, and the seconds that it took."""

    check: Check
    findings: tuple[Finding, ...]
    took_s: float
