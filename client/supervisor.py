"""Runs child daemons and starts them again: the shell around `supervision`.

One thread, one selector: signals (SIGCHLD among them) come through a wakeup pipe, a child's answers through its standard output.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, Literal, cast

from ..common.errors import ExitCode, ShoalError
from ..common.logs import get_logger
from ..common.systemd import Notifier
from .children import ANSWER_BYTES_MAX, child_error, launch
from .supervision import ChildLife, ChildState, how_it_ended

GRACE_S: Final = 5.0
"""What a child may take beyond its drain timeout before it is killed."""

log = get_logger("up")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """A daemon to run. settings override, by name, what it finds on its machine; they may hold credentials."""

    name: str
    daemon: Literal["coordinator", "agent"]
    settings: Mapping[str, object] = field(repr=False)
    config: str = ""


class _Child:
    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.life = ChildLife(spec.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.error: dict[str, Any] | None = None
        self._answers = b""

    def start(self, now: float) -> None:
        self._answers = b""
        self.error = None
        self.process = launch(
            {
                "daemon": self.spec.daemon,
                "settings": dict(self.spec.settings),
                "authority": "",
                "folder": "",
                "config": self.spec.config,
            }
        )
        self.life.started(now)

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    @property
    def output(self) -> int:
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.fileno()

    def answers(self) -> list[dict[str, Any]] | None:
        """What it told since the last time; None when it tells no more."""
        data = os.read(self.output, 4096)
        *lines, self._answers = (self._answers + data)[-ANSWER_BYTES_MAX:].split(b"\n")
        found: list[dict[str, Any]] = []
        for line in lines:
            with suppress(ValueError):
                value: object = json.loads(line)
                if isinstance(value, dict):
                    found.append(cast("dict[str, Any]", value))
        return found if data else None

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()


class Supervisor:
    """Keeps children alive until it is told to stop."""

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        drain_s: float,
        tell: Callable[[str], None],
        on_children: Callable[[dict[str, int]], None] = lambda pids: None,
    ) -> None:
        """specs: the first is started first, and stopped last; the others follow when it is ready. drain_s: how long a child may take
        to end in order. tell gets lines for people; on_children the pid of each child whenever one was started.
        """
        self._children = [_Child(spec) for spec in specs]
        self._drain_s = drain_s
        self._tell = tell
        self._on_children = on_children
        self._selector = selectors.DefaultSelector()
        self._stops = 0
        self._kill_at = float("inf")
        self._all_ready = False
        self._failure: ShoalError | None = None

    def run(self) -> int:
        """Run until SIGINT or SIGTERM. Returns the exit code. Raises what ended a child at its first start."""
        with ExitStack() as stack:
            stack.callback(self._selector.close)
            wakeup = stack.enter_context(_signals(self._signalled))
            self._selector.register(wakeup, selectors.EVENT_READ)
            notifier = Notifier.from_environ(os.environ)
            stack.callback(notifier.close)
            stack.callback(self._end_all)
            self._start(self._children[0])
            while not self._is_over():
                for key, _ in self._selector.select(self._wait_s()):
                    if key.fd == wakeup:
                        os.read(wakeup, 4096)
                    else:
                        self._hear(cast(_Child, key.data), notifier)
                self._reap()
                _reap_strangers({child.pid for child in self._children if child.process is not None})
                self._act(notifier)
        if self._failure is not None:
            raise self._failure
        return ExitCode.INTERRUPTED if self._stops > 1 else ExitCode.OK

    # ---- what happens ---------------------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        self._stops += 1
        log.info("up.stopping", signal=signal.Signals(number).name, harder=self._stops > 1)
        self._tell("stopping; once more to stop at once" if self._stops == 1 else "stopping at once")

    def _hear(self, child: _Child, notifier: Notifier) -> None:
        answers = child.answers()
        if answers is None:
            self._selector.unregister(child.output)
            return
        for answer in answers:
            if "ready" in answer:
                child.life.ready()
                log.info("up.child_ready", child=child.spec.name, pid=child.pid, status=str(answer["ready"]))
                self._tell(f"{child.spec.name} (process {child.pid}): {answer['ready'] or 'ready'}")
                if child is self._children[0]:
                    for other in self._children[1:]:
                        if not other.life.starts and not self._stops:
                            self._start(other)
            elif "error" in answer:
                told: object = answer["error"]
                child.error = cast("dict[str, Any]", told) if isinstance(told, dict) else None
        if not self._all_ready and all(each.life.was_ready for each in self._children):
            self._all_ready = True
            notifier.ready(f"{len(self._children)} processes")

    def _reap(self) -> None:
        for child in self._children:
            if child.process is None or (code := child.process.poll()) is None:
                continue
            with suppress(KeyError, ValueError):
                self._selector.unregister(child.output)
            child.close()
            pid, child.process = child.pid, None
            wait_s = child.life.ended(time.monotonic())
            how = how_it_ended(code)
            if child.life.state is ChildState.FAILED:
                self._failure = self._failure or child_error(child.error, f"shoal {child.spec.daemon}", code)
                self._stops = max(self._stops, 1)
            elif wait_s is not None:
                cause = str(child.error.get("cause", "")) if child.error else ""
                log.warning("up.child_ended", child=child.spec.name, pid=pid, how=how, cause=cause, restart_in_s=wait_s)
                told = f": {cause}" if cause else ""
                self._tell(f"{child.spec.name} (process {pid}) {how}{told}; it is started again in {wait_s:g} s")

    def _act(self, notifier: Notifier) -> None:
        now = time.monotonic()
        if self._stops:
            self._stop(now, notifier)
            return
        for child in self._children:
            if child.life.starts and child.life.is_due(now):
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.start(time.monotonic())
        self._selector.register(child.output, selectors.EVENT_READ, child)
        self._on_children({each.spec.name: each.pid for each in self._children if each.process is not None})
        if child.life.starts > 1:
            log.warning("up.child_started_again", child=child.spec.name, pid=child.pid, starts=child.life.starts)

    # ---- the end --------------------------------------------------------------------------------------------------------

    def _stop(self, now: float, notifier: Notifier) -> None:
        """Agents first, so that they give their work back to a coordinator that is there; a second signal kills."""
        if self._kill_at == float("inf"):
            notifier.stopping("stopping")
            self._kill_at = now + 2 * (self._drain_s + GRACE_S)
        if self._stops > 1 or now >= self._kill_at:
            for child in self._children:
                child.life.stop()
                child.signal(signal.SIGKILL)
            return
        others = self._children[1:]
        for child in others if any(each.process for each in others) else self._children[:1]:
            if child.life.state not in (ChildState.STOPPING, ChildState.ENDED, ChildState.FAILED):
                child.life.stop()
                child.signal(signal.SIGTERM)

    def _is_over(self) -> bool:
        return self._stops > 0 and all(child.process is None for child in self._children)

    def _wait_s(self) -> float | None:
        due = [
            child.life.restart_at
            for child in self._children
            if child.life.state is ChildState.WAITING and child.life.starts
        ]
        due = [self._kill_at] if self._stops else due
        soonest = min(due, default=float("inf"))
        return None if soonest == float("inf") else max(0.0, soonest - time.monotonic())

    def _end_all(self) -> None:
        """Whatever went wrong here, nothing is left behind."""
        for child in self._children:
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
            child.close()


def _reap_strangers(own: set[int]) -> None:
    """As the first process of a container: wait for what was left to it by a child that died, or it stays a zombie for ever."""
    if os.getpid() != 1:
        return
    while True:
        try:
            # WNOWAIT: what is a child of ours is left for its Popen, which would take it for lost.
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in own:
            return
        with suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)


@contextmanager
def _signals(on_stop: Callable[[int], None]) -> Generator[int]:
    """Within the block SIGINT and SIGTERM call back, and they and SIGCHLD wake a selector up. Yields what it is to read."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def handle(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            on_stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = {number: signal.signal(number, handle) for number in numbers}
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
