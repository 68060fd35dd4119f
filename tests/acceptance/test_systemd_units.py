"""The units that `shoal config install-systemd` writes, held against systemd itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.cli import Shoal, installed

pytestmark = pytest.mark.system

EXPOSURE_MAX = 2.5
UNITS = "etc/systemd/system"
NAMES = ("shoal-coordinator.service", "shoal-coordinator.socket", "shoal-agent.service", "shoal-agent@.service")


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed (apt install systemd)")
    return Shoal(tmp_path / "person", endpoint="http://127.0.0.1:9")


def install(shoal: Shoal, root: Path, *more: str | Path) -> str:
    return shoal.run("config", "install-systemd", "--root", root, *more).expect(0).stdout


def said(*command: str | Path, environ: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, **(environ or {})},
    )
    return done.returncode, done.stdout


def exposure(unit: Path) -> float:
    code, text = said("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", text)
    assert code == 0 and found, text
    return float(found[1])


def test_the_units_verify_cleanly_and_give_away_little(shoal: Shoal, tmp_path: Path) -> None:
    text = install(shoal, tmp_path / "root", "--agents", "3", "--writable", "/data", "--writable", "/home/me/my models")
    folder = tmp_path / "root" / UNITS
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == sorted(NAMES)
    assert said("systemd-analyze", "verify", *(folder / name for name in NAMES)) == (0, "")
    for name in NAMES:
        if name.endswith(".service"):
            assert f"ExecStart={installed('shoal')} " in (folder / name).read_text()
            assert exposure(folder / name) <= EXPOSURE_MAX
    drop_in = (folder / "shoal-agent@.service.d/50-writable.conf").read_text()
    assert 'ReadWritePaths=/data "/home/me/my models"' in drop_in
    assert "ProtectHome=no" in drop_in and "PrivateTmp" not in drop_in
    for command in ("systemctl daemon-reload", "enable --now shoal-agent@1 shoal-agent@2 shoal-agent@3"):
        assert command in text


def test_systemd_takes_the_drop_ins(shoal: Shoal, tmp_path: Path) -> None:
    """`systemd-analyze verify` reads a unit's drop-ins from beside it, and names a line that it does not know."""
    install(shoal, tmp_path / "root", "--writable", "/data")
    unit = tmp_path / "root" / UNITS / "shoal-agent.service"
    (unit.with_name("shoal-agent.service.d") / "60-wrong.conf").write_text("[Service]\nReadWritePath=/data\n")
    _code, text = said("systemd-analyze", "verify", unit)
    assert "Unknown key" in text and "60-wrong.conf" in text and "50-writable" not in text


def test_a_users_own_manager(shoal: Shoal, tmp_path: Path) -> None:
    shoal.environ["XDG_CONFIG_HOME"] = "/home/me/.config"
    text = install(shoal, tmp_path / "root", "--user")
    assert "systemctl --user enable --now shoal-agent" in text and "sysusers" not in text
    folder = tmp_path / "root/home/me/.config/systemd/user"
    (tmp_path / "runtime").mkdir(mode=0o700)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    units = [folder / name for name in NAMES]
    assert said("systemd-analyze", "--user", "verify", *units, environ=environ) == (0, "")
    text = (folder / "shoal-agent.service").read_text()
    assert "User=" not in text and "default.target" in text and "EnvironmentFile=-%E/shoal/agent.env" in text
    for path in (*units, *folder.parents[1].glob("shoal/*.env")):
        assert not re.search(r"/etc/(shoal|cred)", path.read_text()), path


def test_the_user_and_the_folders(shoal: Shoal, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes users, in another root too")
    root = tmp_path / "root"
    install(shoal, root)
    code, text = said("systemd-sysusers", f"--root={root}")
    assert code == 0, text
    assert re.search(
        r"^shoal:x:\d+:\d+:Shoal downloader:/var/lib/shoal:", (root / "etc/passwd").read_text(), re.MULTILINE
    )
    code, text = said("systemd-tmpfiles", f"--root={root}", "--create", "shoal.conf")
    assert code == 0, text
    state = (root / "var/lib/shoal").stat()
    assert (oct(state.st_mode)[-3:], state.st_uid > 0) == ("700", True)


def test_a_changed_file_stays_unless_forced(shoal: Shoal, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(shoal, root)
    assert install(shoal, root).count("is as it should be") == 8
    unit, env = root / UNITS / "shoal-agent.service", root / "etc/shoal/agent.env"
    env.write_text("SHOAL_COORDINATOR_ADDRESS=c.example:7070\n")
    mine = unit.read_text().replace("WatchdogSec=1min", "WatchdogSec=5min")
    unit.write_text(mine)
    (root / UNITS / "shoal-coordinator.socket").unlink()

    finished = shoal.run("config", "install-systemd", "--root", root).expect(2)
    assert str(unit) in finished.stderr and "--force" in finished.stderr
    assert not (root / UNITS / "shoal-coordinator.socket").exists()  # all or nothing
    dry = install(shoal, root, "--dry-run")
    assert f"was changed, needs --force: {unit}" in dry and f"would keep: {env}" in dry
    assert unit.read_text() == mine

    install(shoal, root, "--force")
    assert "WatchdogSec=1min" in unit.read_text()
    assert unit.with_name("shoal-agent.service.old").read_text() == mine
    assert "127.0.0.1" in env.read_text() and "c.example" in env.with_name("agent.env.old").read_text()


def test_what_an_earlier_version_wrote_is_updated(shoal: Shoal, tmp_path: Path) -> None:
    root = tmp_path / "root"
    install(shoal, root, "--binary", "/opt/shoal 1/bin/shoal")
    unit = root / UNITS / "shoal-agent.service"
    assert 'ExecStart="/opt/shoal 1/bin/shoal" agent' in unit.read_text()
    text = install(shoal, root, "--binary", "/opt/shoal-2/bin/shoal")
    assert f"updated: {unit}" in text
    assert "ExecStart=/opt/shoal-2/bin/shoal agent" in unit.read_text()


def test_a_dry_run_writes_nothing_and_bad_arguments_are_named(shoal: Shoal, tmp_path: Path) -> None:
    root = tmp_path / "root"
    text = install(shoal, root, "--dry-run", "--agents", "0", "--binary", "/home/me/bin/shoal")
    assert not root.exists()
    assert "would write" in text and "[Service]" in text and "shoal-agent" not in text
    assert "cannot be started by the units" in text and "ProtectHome" in text
    for arguments, cause in (
        (("--agents", "-1"), "--agents -1"),
        (("--binary", "bin/shoal"), "not an absolute path"),
        (("--writable", "data"), "not an absolute path"),
        (("--binary", "/opt/sh$al/shoal"), "a unit cannot name"),
        (("--writable", '/da"ta'), "a unit cannot name"),
    ):
        assert cause in shoal.run("config", "install-systemd", "--root", root, *arguments).expect(2).stderr
    (tmp_path / "file").write_text("")
    finished = shoal.run("config", "install-systemd", "--root", tmp_path / "file").expect(5)
    assert "file" in finished.stderr
