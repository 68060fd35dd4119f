"""What is only written for a systemd that this machine need not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.client.install_systemd import RELOAD_VERSION, Plan, find_binary
from shoal.common.errors import UsageError


@pytest.mark.parametrize(("version", "count"), [(0, 0), (252, 0), (253, 0), (RELOAD_VERSION, 3), (300, 3)])
def test_newer_systemds_get_what_only_they_know(version: int, count: int) -> None:
    files = Plan(binary=Path("/usr/bin/shoal"), systemd_version=version).files({})
    newer = [file for file in files if file.path.name == "10-newer-systemd.conf"]
    assert len(newer) == count
    assert all("Type=notify-reload" in file.text and "RestartSteps=" in file.text for file in newer)
    assert all("RestartSteps" not in file.text for file in files if file not in newer)


def test_the_program_is_the_one_that_runs(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "shoal"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link = tmp_path / "shoal"
    link.symlink_to(program)
    assert find_binary(None, str(link), {}) == link
    assert find_binary(None, "/somewhere/pytest", {"PATH": str(program.parent)}) == program
    assert find_binary("/opt/x", "pytest", {}) == Path("/opt/x")
    with pytest.raises(UsageError, match="--binary"):
        find_binary(None, "/somewhere/pytest", {"PATH": str(tmp_path / "nothing")})
