"""What one job is to do, read once from the command line and from where the job stands; the same for all parts of a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.main import overrides
from ..common.settings_sources import Rank
from .allocation import Allocation
from .places import Places
from .srun_agents import Layout

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings

Words = tuple[str, ...]
"""A command of ``shoal``, as its arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPlan:
    """Of one job, or of one task of an array.

    Args: options are those of the launch; folder is the job's state folder, on a file system that all nodes see; places are what each
    of its commands touches; patience_s is how long agents have to join.
    """

    options: argparse.Namespace
    settings: Settings
    here: Allocation
    folder: Path
    places: Mapping[Words, Places]
    layout: Layout
    patience_s: float

    @property
    def commands(self) -> list[Words]:
        """All commands, in their order."""
        return list(self.places)

    @property
    def logs(self) -> str:
        """Where the agents' logs are, for people."""
        return f"{self.folder}/agent-*.log"

    def given(self) -> dict[str, object]:
        """The settings, by name, that were given for the whole fleet. Partitioned tables outlive the run where all nodes see them: the
        next one need not read 200 million rows again."""
        found = {"coordinator.tables": str(self.folder.parent / "tables"), **overrides(self.options)}
        if self.options.workers:
            found |= {"tools.workers": self.options.workers, "collect.image_workers": self.options.workers}
        return found

    def agent_settings(self) -> dict[str, object]:
        """As `given`. Logs of agents are files of their own, so they tell what they do unless a level was asked for."""
        asked = self.settings.origin_of("log.level").rank is not Rank.DEFAULT
        return {**self.given(), **({} if asked else {"log.level": "info"})}

    def config_file(self) -> str:
        """``--config``, for processes of this node and others; empty without one."""
        name = getattr(self.options, "config", None)
        return str(Path(name).absolute()) if name else ""

    def exports(self, coordinator: str = "") -> dict[str, str]:
        """What scripts need to know of this run (docs/slurm.md). Agents get more, by `step.py`.

        Args: coordinator is HOST:PORT, as long as there is one.
        """
        first = next((places.folder for places in self.places.values() if places.folder is not None), None)
        found = {
            "SHOAL_LAUNCH": "slurm",
            "SHOAL_JOB_ID": self.here.key,
            "SHOAL_RESTARTS": str(self.here.restarts),
            "SHOAL_NODES": str(self.layout.nodes),
            "SHOAL_AGENTS": str(self.layout.agents),
            "SHOAL_AGENTS_PER_NODE": str(self.layout.per_node),
            "SHOAL_WORKERS": str(self.options.workers or self.layout.cpus or 1),
            "SHOAL_NODE_INDEX": os.environ.get("SLURM_NODEID", "0"),
            "SHOAL_DESTINATION": str(first or ""),
            "SHOAL_STATE": str(self.folder),
        }
        return {**found, "SHOAL_COORDINATOR": coordinator} if coordinator else found


def this_node() -> str:
    """Slurm's name for the node that this process is on."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0]


def count_of(number: int, noun: str) -> str:
    """``1 node``, ``4 nodes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
