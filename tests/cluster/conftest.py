"""What the cluster tests share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.slurm_cluster import SlurmCluster, need_slurm


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    """Four nodes. Tests that use it are of ``xdist_group("slurm")``: one cluster, one test at a time."""
    need_slurm()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: its sockets' paths must be
    folder.chmod(0o755)
    try:
        with SlurmCluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(slurm_session: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, idle before and after the test."""
    yield slurm_session
    slurm_session.until_idle()
