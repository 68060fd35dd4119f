"""When ``shoal up`` starts a child again, what it says of how one ended, and who has a port."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from shoal.client.ports import require_free, who_listens
from shoal.client.supervision import FIRST_WAIT_S, STEADY_S, WAIT_MAX_S, ChildLife, ChildState, how_it_ended
from shoal.client.up import end_left_over, hold_state, note_children
from shoal.common.errors import Busy, NotWritable, UsageError
from support.fleet import free_port


def test_waits_double_and_begin_anew_after_a_steady_run() -> None:
    life = ChildLife("a")
    now = 0.0
    waits: list[float] = []
    for _ in range(9):
        life.started(now)
        life.ready()
        wait_s = life.ended(now + 1.0)
        assert wait_s is not None
        waits.append(wait_s)
        assert not life.is_due(now + 1.0 + wait_s - 0.01)
        now += 1.0 + wait_s
        assert life.is_due(now)
    assert waits[:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert waits[-1] == WAIT_MAX_S
    life.started(now)
    life.ready()
    assert life.ended(now + STEADY_S) == FIRST_WAIT_S
    assert life.starts == 10


def test_a_first_start_that_fails_is_not_tried_again() -> None:
    life = ChildLife("a")
    life.started(0.0)
    assert life.ended(1.0) is None
    assert life.state is ChildState.FAILED
    assert not life.is_due(1e9)


def test_a_restart_that_is_never_ready_goes_on_waiting() -> None:
    life = ChildLife("a")
    life.started(0.0)
    life.ready()
    life.ended(1.0)
    life.started(2.0)
    assert life.ended(3.0) == 2 * FIRST_WAIT_S


def test_what_is_stopped_stays_stopped() -> None:
    running, waiting = ChildLife("a"), ChildLife("b")
    for life in (running, waiting):
        life.started(0.0)
        life.ready()
    waiting.ended(1.0)
    running.stop()
    waiting.stop()
    assert (running.state, waiting.state) == (ChildState.STOPPING, ChildState.ENDED)
    running.ready()
    assert running.ended(2.0) is None
    assert running.state is ChildState.ENDED
    assert not any(life.is_due(1e9) for life in (running, waiting))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (5, "ended with exit code 5"),
        (-9, "was killed by SIGKILL"),
        (-77, "was killed by signal 77"),
    ],
)
def test_how_it_ended(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_who_has_a_port() -> None:
    port = free_port()  # one that nobody is given by chance, when it is free again
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(UsageError, match=rf"web\.listen .*taken by process {os.getpid()} \(") as error:
            require_free("web.listen", f"127.0.0.1:{port}")
        assert error.value.exit_code == 2
    assert who_listens(port) == ""
    require_free("web.listen", f"127.0.0.1:{port}")
    with pytest.raises(UsageError, match="no such address"):
        require_free("web.listen", "no.such.host.invalid:1")


def test_one_on_a_state_folder(tmp_path: Path) -> None:
    with (
        hold_state(tmp_path / "state"),
        pytest.raises(Busy, match=f"process {os.getpid()}"),
        hold_state(tmp_path / "state"),
    ):
        pass
    with hold_state(tmp_path / "state"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable), hold_state(tmp_path / "file/state"):
        pass


def test_what_was_left_is_told_apart_from_others_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        (tmp_path / "up.json").write_text(f'{{"agent-1": [{child}, 12345]}}')  # the number is another process's by now
        end_left_over(tmp_path, patience_s=0.0)
        os.kill(child, 0)
        assert not capsys.readouterr().err
        note_children(tmp_path, {"agent-1": child})
        end_left_over(tmp_path, patience_s=0.0)
        assert f"agent-1 (process {child})" in capsys.readouterr().err
    finally:
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    for text in ("", "[]", '{"a": 1}', '{"a": [0, 0]}', '{"a": ["x", 1]}', '{"a": [-1, 1]}'):
        (tmp_path / "up.json").write_text(text)
        end_left_over(tmp_path, patience_s=0.0)
