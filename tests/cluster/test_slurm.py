"""Shoal on a real Slurm of four nodes on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from support.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("slurm")]


def test_the_cluster_is_a_real_one(slurm: SlurmCluster, tmp_path: Path) -> None:
    told = slurm.run(
        "srun", "-N3", "sh", "-c", 'echo $SLURMD_NODENAME; echo $SLURMD_NODENAME > "$SHOAL_TEST_LOCAL/who"'
    )
    assert sorted(told.expect(0).stdout.split()) == ["n0", "n1", "n2"]
    assert [(slurm.local_of(node) / "who").read_text().strip() for node in ("n0", "n1", "n2")] == ["n0", "n1", "n2"]
    assert not list(slurm.local.iterdir())
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nsrun hostname\nexit 3\n")
    job = slurm.submit(script, "--nodes=4", f"--output={shlex.quote(str(tmp_path))}/%j.log")
    assert (slurm.ended(job), slurm.exit_code(job)) == ("FAILED", 3)
    assert len((tmp_path / f"{job}.log").read_text().split()) == 4
