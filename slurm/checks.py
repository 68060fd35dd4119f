"""Health checks of a launch: what each node sees, and what it means. Light on purpose, and in one place.

Two sets. Before a job is submitted, on the login node: what can be told from there. Inside the job, before a fleet starts: every
node is asked (`probe.py`) whether it sees the destination, may write there, has room, and reaches the servers. What stops the job is
raised; what does not is told.

`shoal doctor` looks at one machine in depth, where a person asks; here many nodes are held against each other, in the seconds before a
fleet starts. What is asked alike is in `common/`: whether a folder can be written (`room.py`), what its file system is (`mounts.py`).
Servers are only connected to here: DNS, proxies, TLS and answers (`common/http/dial.py`) are told apart by doctor, which has the words.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import NoSpace, NotFound, NotShared, NotWritable, ShoalError, UsageError
from ..common.mounts import bears_database, filesystem_type, is_network
from ..common.room import nearest_folder
from ..common.units import format_size
from ..common.version import VERSION
from .places import Places

LOW_BYTES = 1 << 30
"""Less room than this is worth a word; whether a job fits is checked when its sources are known."""

LOCAL_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""Where nodes without a disk of their own, or with a TMPDIR on a shared file system, have room for a small database."""

MARKER = ".shoal-launch-"
NODES_SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What every node is asked. folders and texts of their markers go together; servers are ``HOST:PORT``."""

    folders: tuple[Places, ...]
    markers: tuple[tuple[str, str], ...]  # name and content
    servers: tuple[str, ...]

    def line(self) -> bytes:
        """As a probe reads it."""
        folders = [
            {"path": str(places.folder), "shared": places.shared, "marker": marker, "text": text}
            for places, (marker, text) in zip(self.folders, self.markers, strict=True)
        ]
        return json.dumps({"folders": folders, "servers": list(self.servers)}).encode() + b"\n"


def question(all_places: Sequence[Places], servers: Sequence[str]) -> Question:
    """The question for the commands of a launch, each folder once."""
    once = {(str(places.folder), places.shared): places for places in all_places if places.folder is not None}
    markers = tuple((f"{MARKER}{secrets.token_hex(8)}", secrets.token_hex(8)) for _ in once)
    return Question(folders=tuple(once.values()), markers=markers, servers=tuple(dict.fromkeys(servers)))


def place_markers(asked: Question) -> None:
    """Make the shared folders, and a marker in each. Raises NotWritable, NotFound."""
    for places, (name, text) in zip(asked.folders, asked.markers, strict=True):
        if not places.shared or places.folder is None:
            continue
        if places.must_exist and not places.folder.is_dir():
            raise NotFound(f"dataset {places.folder}", cause="there is no such folder", remedy="check --data")
        try:
            places.folder.mkdir(parents=True, exist_ok=True)
            (places.folder / name).write_text(text, encoding="ascii")
        except OSError as error:
            cause = error.strerror or str(error)
            raise NotWritable(
                f"destination {places.folder}", cause=cause, remedy="check its permissions, or --to"
            ) from None


def remove_markers(asked: Question) -> None:
    """Remove what `place_markers` made but the folders. Never raises."""
    for places, (name, _) in zip(asked.folders, asked.markers, strict=True):
        if places.shared and places.folder is not None:
            with suppress(OSError):
                (places.folder / name).unlink()


# ---- verdict ------------------------------------------------------------------------------------------------------------


def answers_in(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The answers of probes among lines of output: others, such as srun's, are not ours."""
    found: list[dict[str, Any]] = []
    for line in lines:
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and "node" in answer:
                found.append(answer)  # pyright: ignore[reportUnknownArgumentType]
    return found


def verdict(asked: Question, nodes: Sequence[str], answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the nodes' answers mean. Returns what a person should know but that stops nothing.

    Raises NotShared for a destination that is not the same folder on all nodes, NotWritable, NoSpace, ShoalError for a node that cannot
    run Shoal or for a server that no node reaches.
    """
    found = {str(answer["node"]): answer for answer in answers}
    by_node = {node: found[node] for node in nodes if node in found}
    silent = [node for node in nodes if node not in by_node]
    if silent:
        cause = "Shoal could not be run there"
        remedy = "is it installed where every node sees it, at the same path? the lines above tell more"
        raise ShoalError(_named(silent), cause=cause, remedy=remedy)
    others = {node: answer["version"] for node, answer in by_node.items() if answer["version"] != VERSION}
    if others:
        node, version = next(iter(others.items()))
        cause = f"it has Shoal {version}, this one has {VERSION}"
        raise ShoalError(_named(list(others)), cause=cause, remedy=f"install the same on all, such as on {node}")
    for number, places in enumerate(asked.folders):
        _judge_folder(places, {node: answer["folders"][number] for node, answer in by_node.items()})
    return [*_judge_room(asked, by_node), *_judge_servers(asked, by_node)]


def _judge_folder(places: Places, answers: Mapping[str, Mapping[str, Any]]) -> None:
    thing = f"destination {places.folder}"
    blind = [node for node, answer in answers.items() if not answer["seen"]]
    if blind and places.shared:
        raise NotShared(
            thing,
            cause=f"{_named(blind)} {'does' if len(blind) == 1 else 'do'} not see the folder of the batch node there",
            remedy="name a folder on a file system that all nodes see, or add --deliver replicate for a copy on each",
        )
    failed = {node: answer["error"] for node, answer in answers.items() if answer["error"]}
    if failed:
        cause = f"{_named(list(failed))}: {next(iter(failed.values()))}"
        raise NotWritable(thing, cause=cause, remedy="check its permissions and quotas, or --to")
    full = [
        node
        for node, answer in answers.items()
        if answer["free_bytes"] == 0 or (answer["free_files"] is not None and answer["free_files"] == 0)
    ]
    if full:
        raise NoSpace(thing, cause=f"nothing is free on {_named(full)}", remedy="free some space, or another --to")


def _judge_room(asked: Question, by_node: Mapping[str, Mapping[str, Any]]) -> list[str]:
    told: list[str] = []
    for number, places in enumerate(asked.folders):
        free, node = min((int(answer["folders"][number]["free_bytes"]), node) for node, answer in by_node.items())
        where = "" if places.shared else f" on {node}, the least of all nodes"
        low = "only " if free < LOW_BYTES else ""
        told.append(f"{places.folder}: {low}{format_size(free)} free{where}")
    return told


def _judge_servers(asked: Question, by_node: Mapping[str, Mapping[str, Any]]) -> list[str]:
    told: list[str] = []
    for server in asked.servers:
        without = {
            node: line
            for node, answer in by_node.items()
            for line in answer["unreachable"]
            if line.startswith(f"{server}: ")
        }
        if not without:
            continue
        reason = next(iter(without.values())).removeprefix(f"{server}: ")
        if len(without) == len(by_node):
            remedy = "do compute nodes need a proxy (HTTPS_PROXY), or a mirror (HF_ENDPOINT)?"
            raise ShoalError(f"server {server}", cause=f"no node reaches it: {reason}", remedy=remedy)
        told.append(f"{server} is not reached from {_named(list(without))}: {reason}")
    return told


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - NODES_SHOWN} more" if len(nodes) > NODES_SHOWN else ""
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(nodes[:NODES_SHOWN])}{more}"


# ---- before a job is submitted ------------------------------------------------------------------------------------------


def check_folder(places: Places) -> str:
    """What can be told of a command's folder on the login node. Returns a doubt, or an empty string. Raises NotFound, NotWritable."""
    folder = places.folder
    if folder is None or not places.shared:
        return ""  # a folder of each node is there, not here
    if places.must_exist and not folder.is_dir():
        raise NotFound(f"dataset {folder}", cause="there is no such folder", remedy="check --data")
    there = nearest_folder(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        cause = f"{there} may not be written to"
        raise NotWritable(f"destination {folder}", cause=cause, remedy="check its permissions, or --to")
    kind = filesystem_type(folder)
    if not kind or is_network(kind):
        return ""
    return f"{folder} is on {kind}, which is often one machine's own; the nodes are asked when the job starts"


def local_folder(usual: Path) -> Path:
    """A folder of this node that bears a database: the usual one of temporary files, else one of LOCAL_FOLDERS. Raises UsageError."""
    for folder in (usual, *LOCAL_FOLDERS):
        if os.access(folder, os.W_OK | os.X_OK) and bears_database(filesystem_type(folder)):
            return folder
    cause = f"neither {usual} nor {', '.join(map(str, LOCAL_FOLDERS))} is a local file system that may be written to"
    raise UsageError("the coordinator's database", cause=cause, remedy="set TMPDIR to a folder on the node's own disk")


def check_state(folder: Path) -> None:
    """Make the folder of a job's record and logs. Raises NotWritable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "name another with --state, where all nodes see it"
        raise NotWritable(f"state folder {folder}", cause=error.strerror or str(error), remedy=remedy) from None


def check_jobs_file(name: str) -> None:
    """Raises UsageError for a list of jobs that a batch job cannot read."""
    if name == "-":
        cause = "a batch job has no standard input"
        raise UsageError("--jobs -", cause=cause, remedy="write the jobs into a file that all nodes see")
