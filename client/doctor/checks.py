"""The table of checks, in the order of the report. docs/doctor.md lists them; a test holds the two together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...common.errors import UsageError
from .access import check_bytes, check_s3, check_sources, check_token
from .cluster import check_mpi, check_slurm
from .configuration import check_config, check_packages
from .disk import check_destination, check_filesystem, check_inodes, check_space, check_state
from .fleet import check_coordinator, check_peers
from .machine import check_files, check_memory, check_permissions, check_processes
from .network import check_clock, check_connect, check_dns, check_http, check_proxy, check_tls
from .records import Check, Group

CHECKS: Final = (
    Check(
        name="config",
        group=Group.CONFIGURATION,
        about="unknown keys, bad values, contradictions, ignored variables",
        run=check_config,
    ),
    Check(
        name="packages",
        group=Group.CONFIGURATION,
        about="Python, versions, and the extras that this configuration needs",
        run=check_packages,
    ),
    Check(
        name="dns",
        group=Group.NETWORK,
        about="names of Hub endpoints, stores, sources, coordinator and proxies resolve",
        run=check_dns,
    ),
    Check(
        name="connect",
        group=Group.NETWORK,
        about="a TCP connection to each endpoint",
        run=check_connect,
    ),
    Check(
        name="proxy",
        group=Group.NETWORK,
        about="which proxy applies, who set it, whether it lets us through (407, CONNECT)",
        run=check_proxy,
    ),
    Check(
        name="tls",
        group=Group.NETWORK,
        about="each certificate: issuer, expiry, name, authority; a proxy that intercepts TLS",
        run=check_tls,
    ),
    Check(
        name="http",
        group=Group.NETWORK,
        about="an answer of each server, and that it is the server's own",
        run=check_http,
    ),
    Check(
        name="clock",
        group=Group.NETWORK,
        about="this machine's clock against those of the servers and the coordinator",
        run=check_clock,
    ),
    Check(
        name="token",
        group=Group.ACCESS,
        about="the Hub token: accepted, whose, its rights, not in plain text",
        run=check_token,
    ),
    Check(
        name="sources",
        group=Group.ACCESS,
        about="each URI: there, accessible (gated repos too), allowed by site rules",
        run=check_sources,
    ),
    Check(
        name="bytes",
        group=Group.ACCESS,
        about="the first byte of each URI's largest file, from where files are served",
        run=check_bytes,
    ),
    Check(
        name="s3",
        group=Group.ACCESS,
        about="keys of each S3 profile: one listing, one byte",
        run=check_s3,
    ),
    Check(
        name="destination",
        group=Group.DISK,
        about="the folder exists or can be made, and can be written",
        run=check_destination,
    ),
    Check(
        name="space",
        group=Group.DISK,
        about="free space against the URIs' sizes, with what is there counted",
        run=check_space,
    ),
    Check(
        name="inodes",
        group=Group.DISK,
        about="free inodes against the number of files",
        run=check_inodes,
    ),
    Check(
        name="filesystem",
        group=Group.DISK,
        about="its type; rename, O_EXCL, flock, copy_file_range, upper and lower case",
        run=check_filesystem,
    ),
    Check(
        name="state",
        group=Group.DISK,
        about="coordinator.state and agent.data on local disks",
        run=check_state,
    ),
    Check(
        name="permissions",
        group=Group.MACHINE,
        about="the umask, and who can read files that hold secrets",
        run=check_permissions,
    ),
    Check(
        name="memory",
        group=Group.MACHINE,
        about="the limit of job, container or unit against agent.memory_limit",
        run=check_memory,
    ),
    Check(
        name="files",
        group=Group.MACHINE,
        about="the limit of open files against what the settings can need",
        run=check_files,
    ),
    Check(
        name="processes",
        group=Group.MACHINE,
        about="how many more processes and threads may be started",
        run=check_processes,
    ),
    Check(
        name="mpi",
        group=Group.CLUSTER,
        about="mpi4py and its MPI library",
        run=check_mpi,
    ),
    Check(
        name="slurm",
        group=Group.CLUSTER,
        about="Slurm's commands, its controller, the allocation",
        run=check_slurm,
    ),
    Check(
        name="coordinator",
        group=Group.FLEET,
        about="it answers, takes our credential, is of our version",
        run=check_coordinator,
    ),
    Check(
        name="peers",
        group=Group.FLEET,
        about="each agent's peer port answers to this machine",
        run=check_peers,
    ),
)


def chosen(only: Sequence[str], skip: Sequence[str]) -> tuple[Check, ...]:
    """The checks that --only and --skip leave; each of them may hold several names, with commas. Raises UsageError."""
    wanted, unwanted = _names("--only", only), _names("--skip", skip)
    found = tuple(check for check in CHECKS if (not wanted or check.name in wanted) and check.name not in unwanted)
    if not found:
        raise UsageError("shoal doctor", cause="no check is left", remedy="say less with --only and --skip")
    return found


def _names(option: str, texts: Sequence[str]) -> set[str]:
    known = [check.name for check in CHECKS]
    names = {name.strip().lower() for text in texts for name in text.split(",") if name.strip()}
    for name in sorted(names):
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"{option} {name}", cause="there is no such check", remedy=remedy)
    return names
