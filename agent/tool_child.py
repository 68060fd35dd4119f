"""The process that a tool's stage runs in: ``python -m shoal.agent.tool_child`` with one JSON object on standard input.

A tool may be a user's code. In a process of its own it cannot keep the agent from its heartbeats, and it can be ended at any moment:
every stage can be done again. The last line of standard output is the answer, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

from ..common.collect_records import tool_spec_from
from ..common.errors import ShoalError

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    """Do what standard input says."""
    _die_with_parent()
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        print(json.dumps({"done": _do(order)}))
    except ShoalError as error:
        print(json.dumps({"error": {"code": error.code, "text": str(error), "retryable": error.retryable}}))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:2000]
        print(json.dumps({"error": {"code": ShoalError.code, "text": text, "retryable": True}}))
    return 0


def _do(order: dict[str, Any]) -> dict[str, Any]:
    from ..tools.fleet import finish, plan, run_unit

    spec, data = tool_spec_from(order["spec"]), Path(order["data"])
    match order["stage"]:
        case "plan":
            return {"units": plan(spec, data)}
        case "run":
            return dataclasses.asdict(run_unit(spec, data, int(order["number"])))
        case _:
            return {"rows": finish(spec, data).rows}


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
