"""A daemon as the child of another process: ``python -m shoal.client.child``. `ChildDaemon` is the parent's end.

The parent writes one JSON line to standard input: which daemon, its settings, the authority of the coordinator's certificate, a folder
to remove at the end. So no credential is ever in an argument list, the environment or a file. The child answers with one JSON line on
standard output: that it is ready, with what the daemon would tell a service manager and the credentials that it was asked to make, or
the error that it ended with. When standard input ends, the child drains and ends: a parent that was killed leaves nothing behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..common.errors import ShoalError
from ..common.settings import load_settings
from ..common.stopping import stop_from_within
from .fleet_certificate import LIFE

DRAIN_S = 15.0
"""What the daemon gets to end in order after its parent is gone."""


def main() -> int:
    """Run the daemon that standard input names, until that ends. Returns the exit code."""
    asked: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    ended = threading.Event()
    threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="shoal-") as name:
        try:
            return _run(asked, Path(name))
        except ShoalError as error:
            _tell(error={"code": error.code, "thing": error.thing, "cause": error.cause, "remedy": error.remedy})
            return int(error.exit_code)
        finally:
            # Launchers signal all processes of a run, some of them more than once: not in the middle of tidying up.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if asked["folder"]:
                shutil.rmtree(asked["folder"], ignore_errors=True)
            ended.set()


def _run(asked: dict[str, Any], folder: Path) -> int:
    from . import daemons
    from .main import configure_logs

    overrides: dict[str, object] = asked["settings"]
    if asked["authority"]:
        (folder / "authority.pem").write_text(asked["authority"], encoding="ascii")
        overrides["security.tls_ca"] = str(folder / "authority.pem")
    if asked["daemon"] == "agent":
        overrides.setdefault("agent.data", str(folder / "agent"))
    config = Path(asked["config"]) if asked.get("config") else None
    settings = load_settings(environ=os.environ, cwd=Path.cwd(), overrides=overrides, config_file=config)
    configure_logs("", settings)  # warnings only, unless a level was asked for: somebody else's terminal shows them
    tokens: dict[str, str] = {}
    if asked.get("tokens"):
        made = asyncio.run(daemons.fresh_tokens(settings, asked["tokens"], LIFE.total_seconds()))
        tokens = {role.value: token.reveal() for role, token in made.items()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        name = f"\0shoal-{os.getpid()}"  # Linux's abstract namespace: no file, and no limit on the folder's length
        notices.bind(name)
        os.environ["NOTIFY_SOCKET"] = f"@{name[1:]}"
        os.environ.pop("WATCHDOG_USEC", None)
        threading.Thread(target=_tell_when_ready, args=(notices, tokens), daemon=True).start()
        run = daemons.coordinator if asked["daemon"] == "coordinator" else daemons.agent
        return run(argparse.Namespace(), settings)


def _tell_when_ready(notices: socket.socket, tokens: dict[str, str]) -> None:
    lines = notices.recv(4096).decode(errors="replace").splitlines()
    status = next((line.removeprefix("STATUS=") for line in lines if line.startswith("STATUS=")), "")
    _tell(ready=status, tokens=tokens)
    try:
        while notices.recv(4096):  # a full queue would hold nobody up; an empty one tells nobody anything
            pass
    except OSError:
        pass  # closed: the daemon has ended


def _tell(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


def _end_with_parent(ended: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    if not stop_from_within():
        os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(DRAIN_S):
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
