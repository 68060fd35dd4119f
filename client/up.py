"""``shoal up``: coordinator with web page and agents on this machine, each a process of its own, supervised.

A child watches the pipe that is its standard input (`child.py`), so that it drains and ends when the supervisor does, however that
came; a later run waits for what is left of an earlier one. What a child may need to know, credentials too, goes through that pipe.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import Busy, NotWritable, UsageError
from ..common.flock import lock_now
from .ports import require_free
from .running import run
from .supervisor import ChildSpec, Supervisor

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

WEB_LISTEN = "127.0.0.1:7071"
AGENTS_MAX = 64
LOCK = "up.lock"
CHILDREN = "up.json"
LEFT_OVER_S = 20.0
"""What is left of an earlier run gets so long to end by itself: a child drains for 15 s when its supervisor is gone."""
TOKEN_NAME = "shoal up"
_POLL_S = 0.1
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}


def up(options: argparse.Namespace, settings: Settings) -> int:
    """Run the fleet of this machine until a signal. Returns the exit code.

    Raises UsageError (an address that is taken, a number of agents that makes no sense), Busy when another one has the state folder,
    NotWritable, and what ended a child at its first start.
    """
    if not 1 <= options.agents <= AGENTS_MAX:
        raise UsageError(f"--agents {options.agents}", cause=f"it is not a number from 1 to {AGENTS_MAX}")
    web = settings.web.listen or WEB_LISTEN
    with hold_state(settings.coordinator.state) as state:
        end_left_over(state)
        require_free("coordinator.listen", settings.coordinator.listen)
        require_free("web.listen", web)
        specs = child_specs(options, settings, web=web, token=_agents_token(settings))
        supervisor = Supervisor(
            specs,
            drain_s=settings.coordinator.drain_timeout,
            tell=_tell,
            on_children=lambda pids: note_children(state, pids),
        )
        code = supervisor.run()
        note_children(state, {})
        return code


def child_specs(options: argparse.Namespace, settings: Settings, *, web: str, token: str) -> list[ChildSpec]:
    """What is to run: the coordinator first. token: the agents' credential, "" where they need none."""
    from .main import overrides

    given = overrides(options)
    config = str(options.config) if getattr(options, "config", None) else ""
    if getattr(options, "to", None):
        folder = str(Path.cwd() / Path(options.to).expanduser())
        given["web.destinations"] = [folder]
        given["library.roots"] = [*(str(root) for root in settings.library.roots), folder]
    coordinator = {**given, "web.listen": web}
    specs = [ChildSpec(name="coordinator", daemon="coordinator", settings=coordinator, config=config)]
    host, _, port = settings.coordinator.listen.rpartition(":")
    address = settings.coordinator.address or f"{_ANY_HOST.get(host, host)}:{port}"
    machine = settings.agent.name or socket.gethostname()
    for number in range(1, options.agents + 1):
        name = f"agent-{number}"
        own: dict[str, object] = {
            **given,
            "coordinator.address": address,
            "agent.name": f"{machine}-{number}",
            "agent.data": str(settings.coordinator.state / "agents" / name),
            "agent.peer_listen": settings.agent.peer_listen if options.agents == 1 else "",
        }
        if token:
            own["security.token"] = token
        specs.append(ChildSpec(name=name, daemon="agent", settings=own, config=config))
    return specs


def _agents_token(settings: Settings) -> str:
    """A credential for this run's agents where they need one and none is configured; those of earlier runs become worthless."""
    from .daemons import needs_credential, offline_tokens

    if not needs_credential(settings) or settings.security.token.resolve() or settings.security.client_ca:
        return ""
    from ..common.views import Role

    async def make() -> str:
        async with offline_tokens(settings) as tokens:
            for token in await tokens.list_tokens():
                if token.name == TOKEN_NAME:
                    await tokens.revoke_token(token.token_id)
            return (await tokens.create_token(Role.AGENT, TOKEN_NAME, None)).token.reveal()

    return run(make())


def _tell(line: str) -> None:
    with suppress(OSError):  # a terminal that was closed
        print(line, flush=True)


# ---- the state folder ---------------------------------------------------------------------------------------------------


@contextmanager
def hold_state(state: Path) -> Generator[Path]:
    """Be the one ``shoal up`` of a state folder, which is made. Raises Busy with the other's pid, NotWritable."""
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise NotWritable(f"state folder {state}", cause=str(error), remedy="name another with --state") from None
    try:
        if not lock_now(fd, fcntl.LOCK_EX):
            holder = os.pread(fd, 64, 0).decode(errors="replace").strip()
            raise Busy(
                f"state folder {state}",
                cause=f"another shoal up has it (process {holder or 'unknown'})",
                remedy="stop that one, or name another folder with --state",
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield state
    finally:
        os.close(fd)


def note_children(state: Path, pids: dict[str, int]) -> None:
    """Write down which processes run, with the times of their starts: a pid alone may be another's by then."""
    path = state / CHILDREN
    known = {name: [pid, _started(pid)] for name, pid in pids.items()}
    with suppress(OSError):
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)


def end_left_over(state: Path, *, patience_s: float = LEFT_OVER_S) -> None:
    """Wait for what is left of an earlier run, whose supervisor was killed; end it if it does not end by itself."""
    left = _left_over(state)
    if not left:
        return
    told = ", ".join(f"{name} (process {pid})" for name, pid in left.items())
    print(f"shoal up: waiting for what is left of an earlier run: {told}", file=sys.stderr)
    ends_at = time.monotonic() + patience_s
    while (left := _left_over(state)) and time.monotonic() < ends_at:
        time.sleep(_POLL_S)
    for pid in left.values():
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    while _left_over(state):
        time.sleep(_POLL_S)


def _left_over(state: Path) -> dict[str, int]:
    try:
        known: object = json.loads((state / CHILDREN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found: dict[str, int] = {}
    for name, pair in known.items() if isinstance(known, dict) else ():  # pyright: ignore[reportUnknownVariableType]
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], int) and _started(pair[0]) == pair[1] != 0:  # pyright: ignore[reportUnknownArgumentType]
            found[str(name)] = pair[0]  # pyright: ignore[reportUnknownArgumentType]
    return found


def _started(pid: int) -> int:
    """When a process was started, in clock ticks since the machine was (field 22 of proc_pid_stat(5)); 0 for none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])
