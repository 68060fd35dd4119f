"""One command line of ``shoal`` as the child of whoever started its fleet: ``python -m shoal.client.child_command FD ARGUMENT…``.

The parent writes one JSON line into the pipe that the child inherits as FD: settings that count where the command line says nothing
else, with address and credential of the coordinator, and the configuration file. So no credential is ever in an argument list, the
environment or a file. Standard input, output and error are the parent's. When the pipe ends, the child is interrupted: a
parent that was killed leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from types import FrameType
from typing import IO, Any, NoReturn

from ..common.stopping import STOPS
from .main import main as run_command_line

GRACE_S = 10.0
"""What the command gets to end in order after its parent is gone."""


def main() -> int:
    """Run the command. Returns its exit code."""
    for number in STOPS:
        signal.signal(number, _interrupt)  # until the command has handlers of its own
    pipe = os.fdopen(int(sys.argv[1]), "rb", buffering=0)
    given: dict[str, Any] = json.loads(pipe.readline())
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    return run_command_line(sys.argv[2:], given=given["settings"], config=given["config"])


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """As Ctrl+C, once: whoever cancels a launch reaches this process twice, by the launcher and by its parent."""
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent(pipe: IO[bytes]) -> None:
    while pipe.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
