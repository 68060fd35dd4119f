"""The parent's end of a daemon that runs as a child process; see `child.py`."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

from ..common.errors import ShoalError, TimedOut, error_class
from ..common.secrets import Secret
from ..common.views import Role

STOP_S = 10.0
KILL_S = 2.0
ANSWER_BYTES_MAX = 64 << 10
_RANK_VARIABLES = (
    "PMI_",
    "PMI1_",
    "PMI2_",
    "PMIX_",
    "OMPI_COMM_",
    "OMPI_UNIVERSE_",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
)


class ChildDaemon:
    """One daemon. Use: ``start()``, ``poll()``, ``stop()``, from any thread, one after the other."""

    def __init__(self, daemon: Literal["coordinator", "agent"]) -> None:
        self.daemon = daemon
        self.tokens: dict[Role, Secret] = {}
        """The credentials that `start` asked for."""
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = b""

    def start(
        self,
        settings: Mapping[str, object],
        *,
        authority: str = "",
        folder: str = "",
        config: str = "",
        tokens: str = "",
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> str:
        """Start it and wait until it is ready. Returns its status line.

        Args: settings override, by name, those that the child finds on its machine; they may hold credentials. authority is the
        PEM text of what signed the coordinator's certificate. folder is removed when the child ends, also after a parent that was
        killed. config is ``--config``. tokens lets a coordinator make a credential of this name for each role; those of the same
        name in its state become worthless. environ has more variables. Raises: what ended it, TimedOut.
        """
        asked = {"daemon": self.daemon, "settings": dict(settings), "authority": authority, "folder": folder}
        asked |= {"config": config, "tokens": tokens}
        self._process = launch(asked, environ=environ)
        answer = self._read_answer(time.monotonic() + timeout_s)
        if "ready" in answer:
            self.tokens = {Role(role): Secret(text) for role, text in answer.get("tokens", {}).items()}
            return str(answer["ready"])
        self.stop()
        raise child_error(answer.get("error"), f"shoal {self.daemon}", self.poll())

    def poll(self) -> int | None:
        """Its exit code; None as long as it runs. Minus the signal's number, if one ended it."""
        return None if self._process is None else self._process.poll()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Let it drain, and end it. Safe to call at any time and again."""
        process = self._process
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        for end, patience_s in ((None, timeout_s), (process.terminate, KILL_S), (process.kill, None)):
            if end is not None:
                end()
            try:
                process.wait(patience_s)
                return
            except subprocess.TimeoutExpired:
                continue

    def _read_answer(self, ends_at: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._answer and len(self._answer) < ANSWER_BYTES_MAX:
            readable, _, _ = select.select([pipe], [], [], max(0.0, ends_at - time.monotonic()))
            if not readable:
                self.stop(0.0)
                raise TimedOut(f"shoal {self.daemon}", cause="it was not ready in time")
            data = os.read(pipe, 4096)
            if not data:
                return {}
            self._answer += data
        try:
            found = json.loads(self._answer.partition(b"\n")[0])
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def python_command(module: str) -> list[str]:
    """The arguments that run a module of ours in a child of this process."""
    # -P: a folder that happens to be the working directory must not take the place of installed packages.
    return [sys.executable, "-P", "-m", module]


def child_environ() -> dict[str, str]:
    """The environment of such a child: this process's, with what it imports from.

    What tells a process that it is a rank of an MPI program stays behind: a child is none, and a tool in it that imports mpi4py
    would speak in its parent's name.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_RANK_VARIABLES)}
    return {**kept, "PYTHONPATH": path}


def launch(asked: Mapping[str, object], *, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a child and tell it what it is to be; see `child.py`. Its standard input must stay open as long as it is to run.

    Args: environ has more variables for it.
    """
    process = subprocess.Popen(
        python_command("shoal.client.child"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**child_environ(), **(environ or {})},
        start_new_session=True,  # Ctrl+C is for the parent, which ends its children in order
        bufsize=0,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asked, default=os.fspath).encode() + b"\n")
    except BrokenPipeError:
        pass  # it has ended already: what follows tells why
    return process


def child_error(told: Any, thing: str, exit_code: int | None) -> ShoalError:
    """The error that a child told of before it ended."""
    if not isinstance(told, dict):
        return ShoalError(thing, cause=f"it ended at its start with exit code {exit_code}", remedy="see its log")
    error = ShoalError.__new__(error_class(str(told.get("code"))))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    ShoalError.__init__(
        error,
        str(told.get("thing")),  # pyright: ignore[reportUnknownArgumentType]
        cause=str(told.get("cause")),  # pyright: ignore[reportUnknownArgumentType]
        remedy=str(told.get("remedy") or ""),  # pyright: ignore[reportUnknownArgumentType]
    )
    return error
