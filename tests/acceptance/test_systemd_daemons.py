"""The real daemons as systemd runs them: notifications, watchdog, reload, credentials, sockets, and logs for the journal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import delivered
from support.fleet import Daemon, Fleet, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo
from support.service_manager import ServiceManager

FILES = {"config.json": b"{}", "data/vocab.txt": b"[PAD]\n" * 100}
WATCHDOG_S = 1.0


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/one", FILES)], tokens=["hf_secret"]) as stand_in:
        yield stand_in


@pytest.fixture
def fleet(tmp_path: Path, hub: StandInHub) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", endpoint=hub.url, environ={"SHOAL_COORDINATOR_HEARTBEAT": "500ms"}) as made:
        yield made


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager(watchdog_s=WATCHDOG_S) as made:
        yield made


def settings_file(daemon: Daemon, text: str) -> None:
    """What a daemon of the fleet reads at its start and when it reloads."""
    Path(daemon._environ["XDG_CONFIG_HOME"], "shoal").mkdir(parents=True, exist_ok=True)
    Path(daemon._environ["XDG_CONFIG_HOME"], "shoal/config.toml").write_text(text)


def managed(daemon: Daemon, manager: ServiceManager) -> Daemon:
    daemon._environ |= manager.environ
    del daemon._environ["SHOAL_LOG_LEVEL"]
    return daemon


def reloaded(daemon: Daemon, manager: ServiceManager) -> str:
    """Reload as systemd does, and what the daemon said when it was done."""
    before_us = time.monotonic_ns() // 1000
    daemon.signal(signal.SIGHUP)
    text = manager.until("RELOADING=1")
    begun = re.search(r"^MONOTONIC_USEC=(\d+)$", text, re.MULTILINE)
    assert begun and before_us <= int(begun[1]) <= time.monotonic_ns() // 1000
    return manager.until("READY=1")


# ---- a coordinator's life -------------------------------------------------------------------------------------------


def test_a_coordinators_life(fleet: Fleet, manager: ServiceManager) -> None:
    daemon = managed(fleet.coordinator, manager)
    daemon.start()
    assert f"listening on {fleet.address}" in manager.until("READY=1")
    assert fleet.run("jobs").exit_code == 0  # ready means ready
    for _ in range(3):
        manager.until("WATCHDOG=1")
    status = manager.until(lambda text: text.startswith("STATUS="))
    assert re.search(r"STATUS=0 agents, 0 jobs, 0 leases, 0\s?B/s", status)
    fleet.start("a1")
    manager.until(lambda text: text.startswith("STATUS=1 agents"))
    daemon.signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert daemon.wait() == 0


def test_a_coordinator_takes_up_settings_and_says_which_need_a_restart(fleet: Fleet, manager: ServiceManager) -> None:
    daemon = managed(fleet.coordinator, manager)
    settings_file(daemon, "[hosts.'slow.example']\nrate = 5\n[hosts.'gone.example']\nrate = 3\n")
    daemon.start()
    manager.until("READY=1")
    fleet.run("hosts", "set", "mine.example", "--rate", "7").expect(0)
    settings_file(
        daemon,
        "[hosts.'slow.example']\nrate = 2\n[hosts.'mine.example']\nrate = 99\n"
        "[security]\ndeny = ['acme/two']\ndeny_licenses = ['mit']\nunknown_license = 'allow'\nmax_job_size = '1B'\n[quota]\njobs = 9\n"
        "[log]\nlevel = 'debug'\n[coordinator]\nlease_ttl = '60s'\n",
    )
    reloaded(daemon, manager)
    rates = {name: host.requests_per_s for name, host in fleet.hosts().items()}
    assert rates["slow.example"] == 2
    assert rates["mine.example"] == 7  # an administrator's word wins
    assert rates.get("gone.example", 0) == 0
    for repo, rule in (("acme/two", "security.deny"), ("acme/one", "security.max_job_size")):
        job = fleet.submit(f"hf://{repo}", "--to", fleet.folder / "to")
        failed = fleet.until("the job to be refused", lambda job=job: (view := fleet.job(job)).ended and view)
        assert failed and failed.failure and rule in failed.failure.text
    (taken,) = daemon.events("settings.reloaded")
    rules = {"security.deny", "security.deny_licenses", "security.max_job_size", "quota.jobs"}
    assert set(taken["in_force"]) >= {"hosts.slow.example.rate", "log.level", *rules}
    (late,) = daemon.events("settings.need_restart")
    assert late["settings"] == ["coordinator.lease_ttl"]


def test_settings_that_are_wrong_change_nothing(fleet: Fleet, manager: ServiceManager) -> None:
    daemon = managed(fleet.coordinator, manager)
    settings_file(daemon, "[hosts.'slow.example']\nrate = 5\n")
    daemon.start()
    manager.until("READY=1")
    settings_file(daemon, "[hosts.'slow.example']\nrate = 'fast'\n")
    assert "not reloaded" in reloaded(daemon, manager)
    (event,) = daemon.events("settings.not_reloaded")
    assert "hosts.slow.example.rate" in event["error"]
    assert fleet.hosts()["slow.example"].requests_per_s == 5
    settings_file(daemon, "[hosts.'slow.example']\nrate = 6\n")
    reloaded(daemon, manager)
    assert fleet.hosts()["slow.example"].requests_per_s == 6


# ---- an agent's life ------------------------------------------------------------------------------------------------


def test_an_agents_life_with_a_credential_of_systemds(fleet: Fleet, manager: ServiceManager, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "shoal.hub-token").write_text("hf_secret\n")
    own = {"CREDENTIALS_DIRECTORY": str(credentials), "SHOAL_HUB_TOKEN_FILE": "shoal.hub-token"}
    fleet.coordinator._environ |= own
    fleet.start()
    agent = fleet.daemon("a1", fleet.agent_arguments("a1"), own)
    fleet._agents["a1"] = managed(agent, manager)
    settings_file(agent, "")
    agent.start()
    manager.until("READY=1")
    manager.until("WATCHDOG=1")
    manager.until(lambda text: text.startswith(f"STATUS=connected to {fleet.address}, 0 leases, 0"))
    fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
    assert delivered(tmp_path / "to") == FILES

    settings_file(agent, "[fetch]\nrate_limit = '1MiB'\n[agent]\nupload_rate = '2MiB'\nname = 'other'\n")
    reloaded(agent, manager)
    (taken,) = agent.events("settings.reloaded")
    assert set(taken["in_force"]) == {"fetch.rate_limit", "agent.upload_rate"}
    # The name is on the command line of this agent, so that of the file counts for nothing.
    assert agent.events("settings.need_restart") == []

    settings_file(agent, "[security]\ndeny = ['acme/*']\ndeny_licenses = ['gpl-*']\n[agent]\nzone = 'r7'\n")
    reloaded(agent, manager)
    assert {"security.deny", "security.deny_licenses"} <= set(agent.events("settings.reloaded")[-1]["in_force"])
    assert agent.events("settings.need_restart")[-1]["settings"] == ["agent.zone"]
    fleet.run("get", "hf://acme/one", "--to", tmp_path / "denied").expect(7)
    assert not delivered(tmp_path / "denied")
    settings_file(agent, "")
    reloaded(agent, manager)
    fleet.run("get", "hf://acme/one", "--to", tmp_path / "denied").expect(0)
    assert delivered(tmp_path / "denied") == FILES
    agent.signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    assert agent.wait() == 0


def test_a_credential_that_is_not_there_is_named(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir()
    own = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"), "SHOAL_SECURITY_TOKEN_FILE": "shoal.agent-token"}
    fleet.start()
    agent = fleet.extra("a1", fleet.agent_arguments("a1"), own)
    assert agent.wait() == 2
    assert "shoal.agent-token" in agent.log and "there is no such file" in agent.log


def test_a_slower_line_takes_effect_while_a_file_is_fetched(tmp_path: Path, manager: ServiceManager) -> None:
    size = 48 << 20
    with (
        hub_in_thread([HubRepo("acme/big", {"big.bin": os.urandom(size)})]) as hub,
        Fleet(tmp_path / "fleet", endpoint=hub.url) as fleet,
    ):
        agent = fleet.daemon("a1", fleet.agent_arguments("a1"))
        fleet._agents["a1"] = managed(agent, manager)
        settings_file(agent, "[fetch]\nrate_limit = '256KiB'\n")
        fleet.start()
        agent.start()
        manager.until("READY=1")
        job = fleet.submit("hf://acme/big", "--to", tmp_path / "to")
        fleet.until_arrived(job, 1)
        settings_file(agent, "")
        reloaded(agent, manager)
        fleet.ended(job)  # at the old rate it would take three minutes


# ---- watchdog -------------------------------------------------------------------------------------------------------

HANGING = """
import asyncio, signal, sys, threading
from pathlib import Path
from shoal.common.settings import load_settings
from shoal.{part}.daemon import serve

settings = load_settings(environ={{"HOME": sys.argv[1]}}, cwd=Path(sys.argv[1]), overrides={overrides})

async def main():
    # When it is told so, the loop is stuck, and its other threads are not.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, threading.Event().wait)
    await serve(settings, version="1", load=lambda: settings)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("part", "overrides"),
    [
        ("coordinator", {"coordinator.listen": "127.0.0.1:0"}),
        ("agent", {"coordinator.address": "127.0.0.1:1"}),
    ],
)
def test_a_stuck_event_loop_feeds_no_watchdog(
    part: str, overrides: dict[str, str], manager: ServiceManager, tmp_path: Path
) -> None:
    program = HANGING.format(part=part, overrides=overrides)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, **manager.environ}, stderr=subprocess.DEVNULL
    )
    try:
        manager.until("READY=1")
        manager.until("WATCHDOG=1")
        process.send_signal(signal.SIGUSR1)
        until("the loop to hang", lambda: manager.silent_for(3 * WATCHDOG_S))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


# ---- socket activation ----------------------------------------------------------------------------------------------


def test_a_socket_of_systemds(fleet: Fleet, tmp_path: Path) -> None:
    host, port = fleet.address.split(":")
    fleet.coordinator._environ["SHOAL_HUB_TOKEN"] = "hf_secret"
    fleet.coordinator._command += ["--listen", "127.0.0.1:1"]  # which is not used
    with (
        tempfile.TemporaryDirectory(prefix="run-") as runtime,
        socket.create_server((host, int(port)), backlog=64) as listener,
    ):
        fleet.coordinator._environ["RUNTIME_DIRECTORY"] = runtime
        fleet.coordinator.listener = listener
        asking = fleet.shoal.start("status", "--json")  # connects before anybody serves: it waits, and is served
        fleet.coordinator.start()
        with asking:
            assert asking.wait().expect(0).document()["fleet"]["agents_alive"] == 0
        agent = {"SHOAL_HUB_TOKEN": "hf_secret"}
        fleet.start("a1", environ=agent)
        fleet.ended(fleet.submit("hf://acme/one", "--to", tmp_path / "to"))
        assert delivered(tmp_path / "to") == FILES
        (started,) = fleet.coordinator.events("server.started")
        assert (started["address"], started["activated"]) == (fleet.address, 1)

        assert fleet.coordinator.terminate() == 0
        asking = fleet.shoal.start("jobs", "--json")  # while it is restarted nobody is refused
        fleet.coordinator.start()
        with asking:
            assert len(asking.wait().expect(0).document()["jobs"]) == 1
        fleet.until_alive("a1")
        errors = [event["error"] for event in fleet.agent("a1").events("agent.disconnected")]
        assert not any("nothing listens" in error for error in errors)
        assert fleet.coordinator.terminate() == 0
        assert list(Path(runtime).iterdir()) == []


def test_a_socket_that_others_can_reach_demands_tls(fleet: Fleet) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        fleet.coordinator.listener = listener
        fleet.coordinator.start()
        assert fleet.coordinator.wait() == 2
    assert "needs TLS and credentials" in fleet.coordinator.log


def test_a_descriptor_that_is_no_listening_socket_is_named(fleet: Fleet) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        fleet.coordinator.listener = datagrams
        fleet.coordinator.start()
        assert fleet.coordinator.wait() == 2
    assert "descriptor 3 is no stream socket that listens" in fleet.coordinator.log


@pytest.mark.system
def test_started_by_systemds_own_tool(fleet: Fleet) -> None:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd is not installed (apt install systemd)")
    coordinator = fleet.coordinator
    passed = [f"--setenv={name}" for name in coordinator._environ]
    coordinator._command = [program, "--listen", fleet.address, *passed, *coordinator._command]
    coordinator.start()
    finished = until("the first call to be served", lambda: (f := fleet.run("status")).exit_code == 0 and f)
    assert finished
    assert coordinator.events("server.started")[0]["activated"] == 1


# ---- the journal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["console", "json"])
def test_the_journal_gets_priorities_and_no_times(format: str, fleet: Fleet) -> None:
    log = fleet.coordinator._log
    log.touch()
    fleet.coordinator._environ |= {
        "JOURNAL_STREAM": f"{log.stat().st_dev}:{log.stat().st_ino}",
        "SHOAL_LOG_FORMAT": format,
    }
    fleet.start()
    fleet.coordinator.terminate()
    lines = fleet.coordinator.log.splitlines()
    assert lines and all(re.match(r"<[3-7]>", line) for line in lines)
    started = next(line for line in lines if "server.started" in line)
    assert started.startswith("<6>") and not re.search(r"20\d\d-\d\d-\d\dT", started)
    if format == "json":
        assert json.loads(started[3:])["action"] == "server.started"


def test_another_standard_error_than_the_journal_keeps_its_times(fleet: Fleet) -> None:
    fleet.coordinator._environ["JOURNAL_STREAM"] = "1:1"
    fleet.start()
    (started,) = fleet.coordinator.events("server.started")
    assert started["timestamp"].startswith("20")
