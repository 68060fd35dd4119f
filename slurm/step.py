"""What srun starts on each node: ``python -m shoal.slurm.step``. It becomes an agent that knows where it stands.

Slurm tells each task its place by variables; here they become Shoal's, which tools and users' scripts read, and the agent's
name. The agent itself is `client/child.py`: settings and credential come by standard input, which srun gives to every task.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

from ..client.children import child_environ, python_command


def task_environ(environ: Mapping[str, str], hostname: str) -> dict[str, str]:
    """Shoal's variables of one task, from Slurm's.

    Returns: SHOAL_NODE_INDEX (of its node, from 0), SHOAL_RANK (of the agent among all), SHOAL_WORKERS (processors that it may use),
    SHOAL_AGENT_NAME: the node's, with a number where a node has several agents.
    """
    node = environ.get("SLURMD_NODENAME") or hostname
    local = environ.get("SLURM_LOCALID", "0")
    alone = environ.get("SHOAL_AGENTS") == environ.get("SHOAL_NODES")
    return {
        "SHOAL_NODE_INDEX": environ.get("SLURM_NODEID", "0"),
        "SHOAL_RANK": environ.get("SLURM_PROCID", "0"),
        "SHOAL_WORKERS": environ.get("SLURM_CPUS_PER_TASK") or environ.get("SLURM_CPUS_ON_NODE", "1"),
        "SHOAL_AGENT_NAME": node if alone else f"{node}-{local}",
    }


def main() -> None:
    """Become the agent."""
    told = task_environ(os.environ, socket.gethostname())
    command = python_command("shoal.client.child")
    os.execve(sys.executable, command, {**child_environ(), **told})


if __name__ == "__main__":
    main()
