"""Worker processes that run units, and what is done when one of them dies."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..common.collect_records import ToolSpec
from ..common.errors import ShoalError, ToolFailed, error_class
from .records import UnitReport
from .units import Row, read_breadcrumb, report_from

DEATHS_MAX: Final = 32
"""How often a unit may kill its process. Each time one row is left out; with more of them something else is wrong."""

_STOP_S: Final = 5.0


class _Died(Exception):
    """The worker process ended without an answer."""


class Worker:
    """One worker process. Close it, or use it as a context manager: it is killed if it does not go by itself."""

    def __init__(self, spec: ToolSpec, data: Path, crumbs: Path) -> None:
        self._crumbs = crumbs
        self._setup = json.dumps({"spec": asdict(spec), "data": str(data), "crumbs": str(crumbs)})
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it does; also from another thread."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def run(self, unit: int) -> UnitReport:
        """Run a unit. When the process dies over a row, the unit is run again without that row, which is reported.

        Raises the worker's ShoalError, ToolFailed when the process dies over no row or too often.
        """
        skip: list[Row] = []
        while True:
            self._crumbs.write_bytes(b"")
            try:
                return self._ask(unit, skip)
            except _Died:
                code = self._process.wait() if self._process is not None else 0
                self._reap()
                row = read_breadcrumb(self._crumbs)
                if self._is_closed or row is None or row in skip or len(skip) >= DEATHS_MAX:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    raise ToolFailed(
                        f"unit {unit}",
                        cause=f"its process died ({how})",
                        remedy="look for a lack of memory; run it again",
                    ) from None
                skip.append(row)

    def _ask(self, unit: int, skip: Sequence[Row]) -> UnitReport:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"unit": unit, "skip": skip}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            raise _Died from None
        if not line.endswith("\n"):
            raise _Died
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            fault = answer["error"]
            cls = error_class(fault["code"])
            if cls.__init__ is not ShoalError.__init__:
                cls = ShoalError
            raise cls(fault["thing"], cause=fault["cause"], remedy=fault["remedy"])
        return report_from(answer["report"])

    def _started(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._is_closed:
                raise _Died
            if self._process is None:
                # -P: the folder that a person happens to be in has no say in what is imported.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "shoal.tools.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                )
                assert self._process.stdin is not None
                self._process.stdin.write(self._setup + "\n")
            return self._process


def run_units(
    spec: ToolSpec, data: Path, units: Sequence[int], workers: int, check: Callable[[], None]
) -> Iterator[tuple[int, UnitReport]]:
    """Run units in as many processes, in their order; yields each with its report as it ends.

    Args: check, called about once a second, raises when the run must stop. The first error ends the run: the other processes are
    killed, which loses nothing but the units they were at. Raises what `Worker.run` raises, and what check does.
    """
    waiting: queue.Queue[int] = queue.Queue(len(units))
    for unit in units:
        waiting.put(unit)
    ended: queue.Queue[tuple[int, UnitReport | BaseException]] = queue.Queue(len(units) + workers)
    stopping = threading.Event()

    def work(worker: Worker) -> None:
        while not stopping.is_set():
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((unit, worker.run(unit)))
            except BaseException as error:
                ended.put((unit, error))
                return

    with tempfile.TemporaryDirectory(prefix="shoal-tools-") as folder:
        made = [Worker(spec, data, Path(folder, f"row-{index}")) for index in range(min(workers, len(units)))]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in made]
        for thread in threads:
            thread.start()
        try:
            left = len(units)
            while left:
                check()
                try:
                    unit, outcome = ended.get(timeout=1.0)
                except queue.Empty:
                    continue
                left -= 1
                if isinstance(outcome, BaseException):
                    raise outcome
                yield unit, outcome
        finally:
            stopping.set()
            for worker in made:
                worker.close()
            for thread in threads:
                thread.join(_STOP_S)
