"""A process that runs units: started as ``python -m shoal.tools.worker``, told what to do on standard input, a JSON document a line.

Images come from strangers. They are decoded here and not in the process that was started by a person or that holds leases: a decoder
that crashes takes this process with it and nothing else. The first line names the tool and the dataset, each further one a
unit; each is answered on standard output. When standard input ends, the process ends at once, so that it never outlives
whoever started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ..common.collect_records import tool_spec_from
from ..common.errors import ShoalError
from .durable import storage_errors
from .loading import load_tool
from .units import execute_unit


def main() -> int:
    """Serve until standard input ends. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl+C goes to the parent, which ends this process
    # What tools print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.Queue[str] = queue.Queue(maxsize=16)
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    with answers:
        _serve(orders, answers)
    return 0


def _listen(orders: queue.Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


def _serve(orders: queue.Queue[str], answers: TextIO) -> None:
    setup: dict[str, Any] = json.loads(orders.get())
    spec = tool_spec_from(setup["spec"])
    data, crumbs = Path(setup["data"]), Path(setup["crumbs"])
    tool = None
    while True:
        order: dict[str, Any] = json.loads(orders.get())
        try:
            tool = tool or load_tool(spec)
            with storage_errors(data):
                skip = [(server, number, row) for server, number, row in order["skip"]]
                report = execute_unit(spec, tool, data, order["unit"], crumbs=crumbs, skip=skip)
            answer: dict[str, Any] = {"unit": order["unit"], "report": asdict(report)}
        except ShoalError as error:
            fault = {"code": error.code, "thing": error.thing, "cause": error.cause, "remedy": error.remedy}
            answer = {"unit": order["unit"], "error": fault}
        except OSError as error:
            thing = f"tool {spec.name}, unit {order['unit']}"
            fault = {"code": "internal", "thing": thing, "cause": str(error), "remedy": "run it again: it goes on"}
            answer = {"unit": order["unit"], "error": fault}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main())
