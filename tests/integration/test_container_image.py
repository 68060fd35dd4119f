"""What the image does, done by hand: the wheel of what the Dockerfile copies, in an environment without pip, run as nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.container import ROOT, environment, instructions
from support.fleet import free_port, until
from support.hub import StandInHub, hub_in_thread
from support.hub_repo import HubRepo

UID = 10001
_AS_NOBODY = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
    *(
        "--bounding-set=-all,+dac_read_search",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
    ),
)
FILES = {"config.json": b"{}", "model.bin": os.urandom(200_000)}
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("image")]  # it is built once


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder with ``opt/shoal`` as the first stage makes it, and the volumes, open to everybody."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-image-"))
    try:
        folder.chmod(0o755)
        source = folder / "src"
        for name, arguments in instructions():
            if name == "COPY" and not arguments.startswith("--from"):
                *copied, to = arguments.split()
                for each in copied:
                    _copy(ROOT / each, source / (to if to != "./" else each))
        wheels = folder / "wheels"
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(source)]
        subprocess.run(build, check=True, timeout=200, capture_output=True)
        venv.create(folder / "opt/shoal", with_pip=False, symlinks=True)
        packages = next((folder / "opt/shoal/lib").iterdir()) / "site-packages"
        install = [sys.executable, "-m", "pip", "--python", str(folder / "opt/shoal/bin/python"), "install", "--quiet"]
        wheel = str(next(wheels.glob("shoal-*.whl")))
        subprocess.run([*install, "--no-deps", wheel], check=True, timeout=100, capture_output=True)
        # What it depends on is taken from here instead of the index: the wheel is what is tried. A folder named in a .pth file has its
        # own .pth files left alone, so the editable install of this source tree is not seen.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        for volume in ("models", "state", "tmp"):
            (folder / volume).mkdir()
            if os.getuid() == 0:
                os.chown(folder / volume, UID, UID)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(source: Path, to: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"), dirs_exist_ok=True)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, to)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with hub_in_thread([HubRepo("acme/tiny", FILES)]) as stand_in:
        yield stand_in


class Image:
    """Runs the image's program as its user, with its environment; volumes are folders."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder = folder
        self.program = folder / "opt/shoal/bin/shoal"
        volumes = {"/models": folder / "models", "/var/lib/shoal": folder / "state", "/opt/shoal": folder / "opt/shoal"}
        self.environ = {"HF_ENDPOINT": endpoint, "TMPDIR": str(folder / "tmp")}
        for name, value in environment().items():
            for path, here in volumes.items():
                value = value.replace(path, str(here))
            self.environ[name] = value.replace("$PATH", os.defpath)
        self.is_nobody = os.getuid() == 0 and shutil.which("setpriv") is not None
        # The interpreter or the checkout may lie where only root may look: reading anything is what this one capability allows.
        self.command = [*_AS_NOBODY, str(self.program)] if self.is_nobody else [str(self.program)]

    def start(self, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environ,
            cwd=self.folder / "models",
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        with self.start(*arguments) as process:
            said, _ = process.communicate(timeout=60)
            return process.returncode, said


def test_the_image_runs_as_nobody_and_is_healthy(image: Path, hub: StandInHub) -> None:
    container = Image(image, hub.url)
    listen, web = (f"127.0.0.1:{free_port()}" for _ in range(2))
    ours = ["--listen", listen, "--web", web]
    assert container.run("--version")[0] == 0
    assert container.run("health", *ours)[0] == 4, "nobody is there yet"
    log = (image / "tmp/log").open("w+")
    with log, container.start("up", *ours, stdout=log.fileno()) as running:
        try:
            until("it to be healthy", lambda: container.run("health", *ours)[0] == 0)
            assert container.run("health", "coordinator", *ours)[0] == 0
            code, said = container.run("get", "acme/tiny", "--coordinator", listen)
            assert code == 0, said
            code, said = container.run("models", "list", "--json")
            assert code == 0 and "acme/tiny" in said
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
        finally:
            if running.poll() is None:
                running.kill()
        log.seek(0)
        assert "Traceback" not in log.read()
    assert container.run("health", *ours)[0] == 4
    if container.is_nobody:
        made = [*(image / "models").rglob("*"), *(image / "state").rglob("*")]
        assert {path.lstat().st_uid for path in made} == {UID}
    assert (image / "models/hub/models--acme--tiny").is_dir(), "the volume holds the models"
    assert (image / "state/coordinator.db").exists(), "and the other one the state"


def test_a_coordinator_without_a_page_and_an_agent_are_asked(image: Path, hub: StandInHub) -> None:
    container = Image(image, hub.url)
    listen, peers = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with container.start("coordinator", "--listen", listen, stdout=subprocess.DEVNULL) as coordinator:
        agent = container.start("agent", "--coordinator", listen, "--peer-listen", peers, stdout=subprocess.DEVNULL)
        with agent:
            try:
                until("the coordinator", lambda: container.run("health", "coordinator", "--listen", listen)[0] == 0)
                until("the agent", lambda: container.run("health", "agent", "--peer-listen", peers)[0] == 0)
            finally:
                agent.terminate()
                assert agent.wait(60) == 0
                coordinator.terminate()
                assert coordinator.wait(60) == 0
    assert container.run("health", "agent", "--peer-listen", peers)[0] == 4
