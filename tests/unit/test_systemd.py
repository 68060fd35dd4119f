"""The sd_notify protocol, against a real datagram socket."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.common.errors import UsageError
from shoal.common.systemd import Notifier, listen_sockets


@pytest.fixture(
    params=["path", pytest.param("abstract", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))]
)
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@shoal-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        server.setblocking(False)
        yield server, name


def test_every_notification_arrives(systemd: tuple[socket.socket, str]) -> None:
    server, name = systemd
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": name})
    notifier.ready("listening")
    notifier.status("3 jobs")
    notifier.watchdog()
    notifier.stopping()
    received = [server.recv(1024) for _ in range(4)]
    assert received == [b"READY=1\nSTATUS=listening", b"STATUS=3 jobs", b"WATCHDOG=1", b"STOPPING=1"]
    notifier.close()
    notifier.close()
    notifier.status("after the end")
    with pytest.raises(BlockingIOError):
        server.recv(1024)


def test_a_status_is_one_line_of_bounded_length(systemd: tuple[socket.socket, str]) -> None:
    server, name = systemd
    notifier = Notifier(name)
    notifier.status("evil\nREADY=1\r\n\x0bMAINPID=1 \udc80" + "x" * 10_000)
    received = server.recv(65536)
    notifier.close()
    assert received.startswith(b"STATUS=evil READY=1 MAINPID=1 ?xxx")
    assert b"\n" not in received
    assert len(received) < 1000


def test_a_full_queue_does_not_block(systemd: tuple[socket.socket, str]) -> None:
    _, name = systemd
    notifier = Notifier(name)
    for _ in range(5000):
        notifier.watchdog()
    notifier.close()


def test_a_socket_that_is_gone_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "gone"))
    notifier.ready()
    notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_systemd_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ(environ)
    notifier.ready()
    notifier.status("x")
    notifier.watchdog()
    notifier.stopping()
    notifier.close()
    assert notifier.watchdog_interval_s is None


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_looks(environ: dict[str, str], interval_s: float | None) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": "/run/notify", **environ}, pid=42)
    notifier.close()
    assert notifier.watchdog_interval_s == interval_s
    assert Notifier.from_environ(environ, pid=42).watchdog_interval_s is None


def test_a_reload_tells_when_it_began(systemd: tuple[socket.socket, str]) -> None:
    server, name = systemd
    before_us = time.monotonic_ns() // 1000
    notifier = Notifier(name)
    notifier.reloading()
    notifier.close()
    first, second = server.recv(1024).decode().split("\n")
    assert first == "RELOADING=1"
    assert before_us <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "41"},
        {"LISTEN_FDS": "0", "LISTEN_PID": "42"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "42"},
        {"LISTEN_FDS": "²", "LISTEN_PID": "42"},
    ],
)
def test_sockets_that_are_not_for_this_process(environ: dict[str, str]) -> None:
    with listen_sockets(environ, pid=42) as listeners:
        assert listeners == []


def test_a_descriptor_that_is_not_open_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.common.systemd.LISTEN_FDS_START", 9999)
    with (
        pytest.raises(UsageError, match="descriptor 9999 is no socket"),
        listen_sockets({"LISTEN_FDS": "1", "LISTEN_PID": "42"}, pid=42),
    ):
        pass
