"""Runs checks side by side. Each is bounded in time, and one that crashes has failed: it never takes the others with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from ...common.errors import ExitCode, ShoalError
from .records import Check, Examined, Finding, failed, failed_by, skipped
from .visit import Visit, Wishes

GRACE_S: Final = 2.0
"""Connections have the time limit of a check for themselves; what is made of their answers needs a little more."""


async def examine(checks: Sequence[Check], wishes: Wishes) -> list[Examined]:
    """The checks' findings, in their order. Raises nothing but cancellation."""
    async with Visit(wishes) as visit:
        return list(await asyncio.gather(*(_examined(check, visit) for check in checks)))


async def _examined(check: Check, visit: Visit) -> Examined:
    began_at = time.monotonic()
    limit_s = visit.wishes.timeout_s + GRACE_S
    findings: Sequence[Finding]
    try:
        async with asyncio.timeout(limit_s):
            findings = await check.run(visit) or [skipped("there was nothing to look at")]
    except TimeoutError:
        findings = [
            failed(
                f"no result within {limit_s:g} s",
                remedy="see what else failed, or set --timeout",
                exit_code=_code(check),
            )
        ]
    except ShoalError as error:
        findings = [failed_by(error)]
    except Exception as error:
        remedy = f"report it as a fault of Shoal; --skip {check.name} passes over it"
        findings = [failed(f"the check itself failed: {type(error).__name__}: {error}", remedy=remedy)]
    return Examined(check=check, findings=tuple(findings), took_s=time.monotonic() - began_at)


def _code(check: Check) -> ExitCode:
    """What a check that hangs means for the exit code: a folder that does not answer cannot be written."""
    return {"Disk": ExitCode.NO_SPACE, "Fleet": ExitCode.UNREACHABLE}.get(check.group, ExitCode.FAILED)
