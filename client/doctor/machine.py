"""Limits of this machine and of the process: memory, open files, processes and threads, permissions."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...common.errors import ExitCode
from ...common.secrets import SecretRef
from ...common.settings_sources import Rank
from ...common.units import format_size
from .records import Finding, failed, ok, skipped, warning
from .visit import in_thread

if TYPE_CHECKING:
    from ...common.settings import Settings
    from .visit import Visit

FILES_BASE: Final = 128
"""Libraries, logs, databases, sockets of gRPC, folders that are kept open."""
HOSTS_AT_ONCE: Final = 4  # a source, its file servers, a mirror, a table's next host
PEER_CONNECTIONS_MAX: Final = 512  # agent/peer/limits.py: each costs a socket, and a file while it sends
THREADS_NEEDED: Final = 64  # files, digests, the resolver, gRPC's own, image workers
THREADS_TIGHT: Final = 4 * THREADS_NEEDED  # several agents and runs share one account's limit

Read = Callable[[str], str]
"""The content of a file of /proc or /sys by its path; "" where there is none."""


def read_text(path: str) -> str:
    """A small file of the kernel's; "" where there is none or it may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---- control groups -----------------------------------------------------------------------------------------------------


def group_limits(name: str, read: Read, *, version1: str, controller: str) -> Iterator[int]:
    """The limits of a kind on the control groups that this process is in, from its own upward (cgroups(7)).

    Args: name is the file of version 2 (``memory.max``), version1 that of version 1 below its controller's mount.
    """
    for line in read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            top, file = "/sys/fs/cgroup", name
        elif controller in controllers.split(","):
            top, file = f"/sys/fs/cgroup/{controller}", version1
        else:
            continue
        # Inside a container the path is often that of the host: the top is what can be read, then.
        while True:
            text = read(f"{top}{path.rstrip('/')}/{file}").strip()
            if text.isdigit():
                yield int(text)
            if path in ("", "/"):
                break
            path = path.rpartition("/")[0]


# ---- memory -------------------------------------------------------------------------------------------------------------

_NO_LIMIT = 1 << 60  # version 1 writes "none" as a number near 2**63


async def check_memory(visit: Visit) -> list[Finding]:
    """The memory that there is against agent.memory_limit."""
    limits = group_limits("memory.max", read_text, version1="memory.limit_in_bytes", controller="memory")
    limit = min((value for value in limits if value < _NO_LIMIT), default=None)
    return [
        judge_memory(visit.settings.agent.memory_limit, group=limit, machine=_machine_bytes(read_text("/proc/meminfo")))
    ]


def _machine_bytes(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def judge_memory(wanted: int, *, group: int | None, machine: int | None) -> Finding:
    """agent.memory_limit against the limit of the control group and the machine's memory. Bytes; None: not known, or none."""
    if group is None and machine is None:
        return skipped("this system does not tell")
    room = min(value for value in (group, machine) if value is not None)
    whose = "the limit of this job, container or unit" if room == group else "this machine's memory"
    seen = f"{format_size(room)} is {whose}, agent.memory_limit is {format_size(wanted)}"
    if room < wanted:
        remedy = f"ask for more memory (sbatch --mem, MemoryMax=), or set agent.memory_limit below {format_size(room)}"
        return failed(f"{seen}: the agent would be killed", remedy=remedy, exit_code=ExitCode.USAGE)
    if room < wanted + wanted // 4:
        return warning(f"{seen}: nothing is left for others", remedy="leave a quarter more than agent.memory_limit")
    return ok(seen)


# ---- open files ---------------------------------------------------------------------------------------------------------


async def check_files(visit: Visit) -> list[Finding]:
    """The limit of open files against what the settings can need."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [judge_files(files_needed(visit.settings), soft=_finite(soft), hard=_finite(hard))]


def files_needed(settings: Settings) -> int:
    """Files and sockets that an agent with these settings can have open at once."""
    origin = settings.fetch.connections_per_host * HOSTS_AT_ONCE * 2  # a socket and the file that it fills
    peers = settings.agent.download_slots * 2
    serving = PEER_CONNECTIONS_MAX + settings.agent.upload_slots if settings.agent.upload_slots else 0
    return FILES_BASE + origin + peers + serving


def judge_files(needed: int, *, soft: float, hard: float) -> Finding:
    """The soft and the hard limit of open files."""
    seen = f"at most {soft:g} open files, these settings can need {needed}"
    if soft >= needed:
        return ok(seen)
    if hard >= needed:
        remedy = f"ulimit -n {needed} before it, or LimitNOFILE={needed} in the unit"
    else:
        remedy = (
            f"have the hard limit ({hard:g}) raised (limits.conf, LimitNOFILE=), or lower fetch.connections_per_host"
        )
    if soft < FILES_BASE:
        return failed(seen, remedy=remedy, exit_code=ExitCode.USAGE)
    return warning(seen, remedy=remedy)


def _finite(limit: int) -> float:
    return float("inf") if limit < 0 else float(limit)  # RLIM_INFINITY is -1


# ---- processes and threads ----------------------------------------------------------------------------------------------


async def check_processes(visit: Visit) -> list[Finding]:
    """How many more processes and threads may be started."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    # Root is not held to RLIMIT_NPROC (setrlimit(2)).
    account = None if soft < 0 or os.geteuid() == 0 else soft - await in_thread(_threads_of_account)
    groups = list(group_limits("pids.max", read_text, version1="pids.max", controller="pids"))
    used = list(group_limits("pids.current", read_text, version1="pids.current", controller="pids"))
    return [judge_processes(account=account, group=min(groups) - max(used, default=0) if groups else None)]


def _threads_of_account() -> int:
    """Threads of this account, which is what RLIMIT_NPROC counts."""
    count, own = 0, os.geteuid()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if folder.stat().st_uid == own:
                count += len(os.listdir(folder / "task"))  # noqa: PTH208 - only their number matters
        except OSError:
            continue  # it ended meanwhile
    return count


def judge_processes(*, account: int | None, group: int | None) -> Finding:
    """How many more may be started by the account's limit and the control group's; None: no limit."""
    left = min((value for value in (account, group) if value is not None), default=None)
    if left is None:
        return ok("no limit")
    whose = "this account (ulimit -u)" if left == account else "this job, container or unit (pids.max)"
    seen = f"{max(0, left)} more processes and threads are left to {whose}"
    remedy = "have it raised (limits.conf nproc, TasksMax=), or end what is not needed"
    if left < THREADS_NEEDED:
        return failed(f"{seen}; an agent needs {THREADS_NEEDED}", remedy=remedy, exit_code=ExitCode.USAGE)
    return warning(seen, remedy=remedy) if left < THREADS_TIGHT else ok(seen)


# ---- permissions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretFile:
    """A file that holds a secret: what for, and its permission bits."""

    what: str
    path: Path
    mode: int


async def check_permissions(visit: Visit) -> list[Finding]:
    """The umask, and who may read the files that hold secrets."""
    findings = [judge_umask(umask(read_text("/proc/self/status")))]
    files = await in_thread(lambda: secret_files(visit.settings))
    return findings + [finding for file in files if (finding := judge_secret(file)) is not None]


def umask(status: str) -> int | None:
    """The umask out of /proc/self/status (proc(5)); os.umask would change it for all threads."""
    for line in status.splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return None


def judge_umask(mask: int | None) -> Finding:
    """What new files will look like."""
    if mask is None:
        return skipped("this system does not tell the umask")
    files, folders = stat.filemode(stat.S_IFREG | (0o666 & ~mask)), stat.filemode(stat.S_IFDIR | (0o777 & ~mask))
    seen = f"umask {mask:04o}: files become {files}, folders {folders}"
    if mask & 0o700:
        return failed(f"{seen}: not even the owner may use them", remedy="umask 022", exit_code=ExitCode.NO_SPACE)
    if mask & 0o044 == 0o044:
        return warning(
            f"{seen}: nobody else will be able to read what arrives",
            remedy="umask 027 (the group) or 022 (all), if others shall read it",
        )
    if mask & 0o002 == 0:
        return warning(f"{seen}: everybody can change what arrives", remedy="umask 002 (the group may write) or 022")
    return ok(seen)


def secret_files(settings: Settings) -> list[SecretFile]:
    """The files that these settings take secrets from. In a thread: they may lie on a network file system."""
    found: dict[Path, str] = {}
    for name, _, value in settings.values():
        if not isinstance(value, SecretRef):
            continue
        if value.file is not None:
            found.setdefault(value.file, name)
        elif value.value is not None and settings.origin_of(name).rank is Rank.FILE and settings.config_file:
            found.setdefault(settings.config_file, name)
    if settings.security.tls_key is not None:
        found.setdefault(settings.security.tls_key, "security.tls_key")
    files: list[SecretFile] = []
    for path, what in found.items():
        try:
            files.append(SecretFile(what=what, path=path, mode=path.stat().st_mode))
        except OSError:
            continue  # whoever needs it says so
    return files


def judge_secret(file: SecretFile) -> Finding | None:
    """A secret that others can read, or worse."""
    if not file.mode & 0o077:
        return None
    who = "everybody" if file.mode & 0o007 else "its group"
    seen = f"it holds {file.what}, and {who} can read it ({stat.filemode(file.mode)})"
    return warning(seen, subject=str(file.path), remedy=f"chmod 600 {file.path}")
