"""``shoal doctor``: what is wrong with disks, this machine, and the configuration. Each test breaks one thing for real."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal.client.doctor.machine import files_needed
from shoal.common.settings import Settings
from support.absent import without
from support.cli import Shoal, installed
from support.diagnosis import diagnose
from support.hub import hub_in_thread
from support.hub_repo import HubRepo

DISK = "destination,space,inodes,filesystem"
MIB = 1 << 20


@pytest.fixture
def shoal(tmp_path: Path) -> Shoal:
    return Shoal(tmp_path / "person")


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs; without the right to mount one the test is skipped, or fails where CI=true says that nothing may be."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "shoal-test", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        reason = f"mounting a tmpfs needs root: {mounted.stderr.strip()}"
        if os.environ.get("CI", "").lower() == "true" and os.geteuid() == 0:
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# --- the destination ------------------------------------------------------------------------------------------------


def test_a_destination_that_is_yet_to_be_made_leaves_no_trace(shoal: Shoal, tmp_path: Path) -> None:
    found = diagnose(shoal, "--to", tmp_path / "new" / "deep", only=DISK)
    assert found.finished.exit_code == 0, found.rows
    assert f"can be made below {tmp_path}" in found.only("destination").seen
    assert "O_EXCL, rename, flock" in found.only("filesystem").seen
    assert sorted(path.name for path in tmp_path.iterdir()) == ["person"]


def test_what_a_killed_run_left_goes_and_what_a_living_one_uses_stays(shoal: Shoal, tmp_path: Path) -> None:
    for name in ("dead", "alive"):
        (tmp_path / "to/.shoal-doctor" / name / "sub").mkdir(parents=True)
        (tmp_path / "to/.shoal-doctor" / name / "a.tmp").touch()
    os.utime(tmp_path / "to/.shoal-doctor/dead", (1e9, 1e9))
    assert diagnose(shoal, "--to", tmp_path / "to", only="destination").finished.exit_code == 0
    assert [path.name for path in (tmp_path / "to/.shoal-doctor").iterdir()] == ["alive"]


def test_without_a_word_it_is_where_get_would_write(shoal: Shoal) -> None:
    subjects = {row.subject for row in diagnose(shoal, only="destination").of("destination")}
    assert subjects == {str(shoal.cache)}
    both = diagnose(shoal, "hf://acme/tiny", "https://example.org/file", only="destination").of("destination")
    assert {row.subject for row in both} == {str(shoal.cache), str(shoal.cwd)}


def test_a_file_in_the_way_and_folders_that_are_not_allowed(shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    row = diagnose(shoal, "--to", tmp_path / "file" / "below", only="destination").failed("destination", exit_code=5)
    assert "a file lies where a folder should be" in row.seen
    environ = {"SHOAL_AGENT_ALLOW_PATHS": str(tmp_path / "here")}
    row = diagnose(shoal, "--to", tmp_path / "there", only="destination", environ=environ).failed(
        "destination", exit_code=7
    )
    assert "agent.allow_paths" in row.remedy


@pytest.mark.system
def test_a_read_only_disk(shoal: Shoal, tmp_path: Path) -> None:
    with small_disk(tmp_path / "ro", "size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        found = diagnose(shoal, "--to", disk / "to", only=DISK)
        row = found.failed("destination", exit_code=5)
        assert "read-only file system" in row.seen and "permissions, mount and disk" in row.remedy
        assert found.only("filesystem").result == "skipped"
        with hub_in_thread(
            [HubRepo("acme/tiny", {"a.bin": b"123"})]
        ) as hub:  # a job says the same before a byte is fetched
            run = shoal.run("get", "hf://acme/tiny", "--to", disk / "to", environ={"HF_ENDPOINT": hub.url}).expect(5)
            assert row.seen in run.stderr and row.remedy in run.stderr
            assert hub.log.bytes_served == 0


@pytest.mark.system
def test_a_full_disk(shoal: Shoal, tmp_path: Path) -> None:
    with small_disk(tmp_path / "full", "size=1m") as disk:
        with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(65536))
        found = diagnose(shoal, "--to", disk / "to", only=DISK)
    rows = {row.check: row for row in found.rows if row.result == "failed"}
    assert found.finished.exit_code == 5 and {"destination", "space"} <= set(rows)
    assert "no space left" in rows["destination"].seen and "free some space" in rows["space"].remedy


@pytest.mark.system
def test_a_disk_without_inodes(shoal: Shoal, tmp_path: Path) -> None:
    with small_disk(tmp_path / "inodes", "size=4m,nr_inodes=8") as disk:
        for number in range(7):
            (disk / str(number)).touch()
        found = diagnose(shoal, "--to", disk, only=DISK)
    rows = {row.check: row for row in found.rows if row.result == "failed"}
    assert found.finished.exit_code == 5 and {"destination", "inodes"} <= set(rows)
    assert "0 inodes are free" in rows["inodes"].seen and "more inodes" in rows["inodes"].remedy


@pytest.mark.system
def test_sources_that_do_not_fit_and_what_is_there_counts(shoal: Shoal, tmp_path: Path) -> None:
    files = {"big.bin": bytes(3 * MIB), **{f"{number}.txt": b"%d" % number for number in range(100)}}
    with hub_in_thread([HubRepo("acme/big", files)]) as hub:
        environ = {"HF_ENDPOINT": hub.url}
        with small_disk(tmp_path / "small", "size=2m,nr_inodes=50") as disk:
            found = diagnose(shoal, "hf://acme/big", "--to", disk / "to", only=DISK, environ=environ)
            rows = {row.check: row for row in found.rows if row.result == "failed"}
            assert found.finished.exit_code == 5 and set(rows) == {"space", "inodes"}, found.rows
            assert "3MiB are to come, 2MiB of 2MiB are free" in rows["space"].seen
            assert "202 files are to come, 4" in rows["inodes"].seen
        with small_disk(tmp_path / "enough", "size=4m") as disk:
            shoal.get("hf://acme/big", "--to", disk / "to", environ=environ)
            found = diagnose(shoal, "hf://acme/big", "--to", disk / "to", only="space", environ=environ)
            assert found.finished.exit_code == 0, found.rows


# --- this machine ---------------------------------------------------------------------------------------------------


def limited(shoal: Shoal, shell: str, only: str, *, exit_code: int) -> str:
    """What doctor says below the limits that a line of shell sets."""
    command = f"{shell}; exec {shlex.quote(installed('shoal'))} doctor --only {only}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=shoal.cwd, env=shoal.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == exit_code, done
    assert "Traceback" not in done.stderr
    return " ".join(done.stdout.split())


def test_too_few_open_files(shoal: Shoal) -> None:
    said = limited(shoal, "ulimit -n 100", "files", exit_code=2)
    assert "FAILED files at most 100 open files" in said and "limits.conf" in said
    said = limited(shoal, "ulimit -S -n 256", "files", exit_code=0)
    assert "warning files at most 256 open files" in said and f"ulimit -n {files_needed(Settings())}" in said


def test_a_umask_and_secrets_that_others_can_read(shoal: Shoal, tmp_path: Path) -> None:
    assert "nobody else will be able to read" in limited(shoal, "umask 077", "permissions", exit_code=0)
    assert "not even the owner" in limited(shoal, "umask 0700", "permissions", exit_code=5)
    token = tmp_path / "token"
    token.write_text("hf_Secret0123456789\n")
    token.chmod(0o644)
    config = shoal.cwd / "shoal.toml"
    config.write_text('[security]\ntoken = "shoal_admin_0123_SecretSecret"\n')
    config.chmod(0o640)
    found = diagnose(shoal, only="permissions", environ={"SHOAL_HUB_TOKEN_FILE": str(token)})
    told = {row.subject: row for row in found.of("permissions") if row.result == "warning"}
    assert "everybody can read" in told[str(token)].seen and told[str(token)].remedy == f"chmod 600 {token}"
    assert "its group can read" in told[str(config)].seen and "security.token" in told[str(config)].seen
    assert "Secret" not in found.finished.stdout


def test_more_memory_than_there_is(shoal: Shoal) -> None:
    row = diagnose(shoal, only="memory", environ={"SHOAL_AGENT_MEMORY_LIMIT": "900TiB"}).failed("memory", exit_code=2)
    assert "would be killed" in row.seen and "agent.memory_limit" in row.remedy
    assert diagnose(shoal, only="memory,processes").finished.exit_code == 0


# --- configuration and packages -------------------------------------------------------------------------------------


def test_every_mistake_of_the_configuration_at_once(shoal: Shoal) -> None:
    (shoal.cwd / "shoal.toml").write_text('[fetch]\nattemps = 3\nread_timeout = "soon"\n')
    found = diagnose(shoal, only="config", environ={"SHOAL_FETCH_NOTHING": "1"})
    failed = [row for row in found.of("config") if row.result == "failed"]
    assert found.finished.exit_code == 2 and len(failed) == 2
    assert "fetch.attemps" in failed[0].subject and "shoal.toml:2" in failed[0].subject
    assert failed[0].remedy == "did you mean fetch.attempts?"
    assert any(row.subject == "SHOAL_FETCH_NOTHING" for row in found.of("config") if row.result == "warning")


def test_a_file_that_is_no_toml_does_not_end_it(shoal: Shoal) -> None:
    (shoal.cwd / "shoal.toml").write_text("not [toml\n")
    found = diagnose(shoal, only="config,destination")
    assert "not TOML" in found.failed("config", exit_code=2).seen
    assert found.only("destination").result == "ok"


def test_extras_are_missed_when_the_configuration_needs_them(shoal: Shoal, tmp_path: Path) -> None:
    environ = without(tmp_path / "absent", "boto3", "cv2", "hf_transfer", "pyarrow", "uvloop")
    found = diagnose(shoal, only="packages", environ=environ)
    assert found.finished.exit_code == 0  # nothing here needs them
    assert [row.subject for row in found.of("packages") if row.result == "warning"] == ["uvloop"]
    needed = {"SHOAL_HUB_BACKEND": "hf_transfer", "SHOAL_COLLECT_IMAGE_SIZE": "128"}
    found = diagnose(shoal, "s3://bucket/prefix/", only="packages", environ={**environ, **needed})
    remedies = {row.subject: row.remedy for row in found.of("packages") if row.result == "failed"}
    assert found.finished.exit_code == 2
    assert remedies == {
        "boto3": "pip install 'shoal[s3]'",
        "hf_transfer": "pip install 'shoal[hf-transfer]'",
        "cv2": "pip install 'shoal[images]'",
        "pyarrow": "pip install 'shoal[images]'",
    }
    found = diagnose(
        shoal,
        only="packages",
        environ={**environ, "SHOAL_COLLECT_IMAGE_SIZE": "128", "SHOAL_COLLECT_RESAMPLER": "pillow"},
    )
    assert [row.subject for row in found.of("packages") if row.result == "failed"] == ["pyarrow"]


# --- MPI and Slurm --------------------------------------------------------------------------------------------------


def test_mpi_that_is_not_there_or_broken(shoal: Shoal, tmp_path: Path) -> None:
    absent = without(tmp_path / "absent", "mpi4py")
    row = diagnose(shoal, only="mpi", environ=absent).failed("mpi", exit_code=2)
    assert "shoal[mpi]" in row.remedy
    broken = tmp_path / "broken" / "mpi4py"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("class rc: pass\n")
    (broken / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    row = diagnose(shoal, only="mpi", environ={"PYTHONPATH": str(broken.parent)}).failed("mpi", exit_code=2)
    assert "cannot load MPI library" in row.seen and "module load" in row.remedy


def commands(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment with nothing but these commands."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


def test_slurm_that_is_not_there_silent_or_up(shoal: Shoal, tmp_path: Path) -> None:
    row = diagnose(shoal, only="slurm", environ=commands(tmp_path / "none")).failed("slurm", exit_code=2)
    assert "none of Slurm's commands" in row.seen
    others = dict.fromkeys(("sbatch", "srun", "squeue", "scancel"), "exit 0")
    down = commands(tmp_path / "down", scontrol="echo 'Slurmctld(primary) at ctl is DOWN'; exit 1", **others)
    found = diagnose(shoal, only="slurm", environ=down)
    assert "ctl is DOWN" in found.failed("slurm", exit_code=1).seen
    assert any("sinfo" in row.seen and row.result == "warning" for row in found.of("slurm"))
    up = commands(tmp_path / "up", scontrol="echo 'Slurmctld(primary) at ctl is UP'", sinfo="exit 0", **others)
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-4]"}
    found = diagnose(shoal, only="slurm", environ={**up, **job})
    assert [row.seen for row in found.of("slurm")] == ["Slurmctld(primary) at ctl is UP", "inside job 42, on n[1-4]"]


# --- how it is shown ------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal(shoal: Shoal) -> None:
    said = shoal.run("doctor", "--skip", "slurm", "--timeout", "50s", environ={"COLUMNS": "80", "HF_HUB_OFFLINE": "1"})
    assert said.exit_code == 0, said
    for line in said.stdout.splitlines():  # only a path may stick out: it is to be copied
        assert len(line) <= 80 or max(map(len, line.split())) > 50, line
    assert "\x1b" not in said.stdout
    for heading in ("Configuration", "Network", "Access", "Disk", "Machine", "Cluster", "Fleet"):
        assert f"\n{heading}\n" in f"\n{said.stdout}"
    assert " 0 failed" in said.stderr


def test_checks_are_named_listed_and_misspelt(shoal: Shoal) -> None:
    assert "did you mean destination?" in shoal.run("doctor", "--only", "destinaton").expect(2).stderr
    assert "no check is left" in shoal.run("doctor", "--only", "tls", "--skip", "tls").expect(2).stderr
    assert "not a valid" not in shoal.run("doctor", "--list").expect(0).stderr
    assert shoal.run("doctor", "http://[", "--json").expect(2).document()["error"]["code"] == "usage"
