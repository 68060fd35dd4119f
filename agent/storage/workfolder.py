"""The work folder ``.shoal`` of a destination, and what its files are called.

::

    .shoal/manifest.json                what was finished here (common/manifest.py)
    .shoal/partial/KEY.part             an object on its way
    .shoal/partial/KEY.AGENT.map        which of its bytes this agent has written (chunkmap.py)
    .shoal/partial/KEY.AGENT.N.tmp      a small object, a link or a text for the moment between its making and its naming
    .shoal/jobs/SOURCE-JOB.marker       a job is at work here: how an agent knows that it sees the shared folder
    .shoal/jobs/SOURCE-JOB.AGENT.log    what this agent has finished of it (journal.py)
    .shoal/jobs/SOURCE-JOB.AGENT.lease  this agent lives and works on it (common/lease_file.py)
    .shoal/claims/KEY/SOURCE-JOB.AGENT  what this job may fetch and no other one meanwhile (claims.py)

KEY is the source's hash, the path's hash, a dash and the version's hash, so that every partial file of a source, and every
stale version of one of its objects, is found by a prefix.
"""

from __future__ import annotations

import hashlib
import re

from ...common.records import JobSpec, ObjectSpec

MARKER = ".marker"
LOG = ".log"
LEASE = ".lease"
TEMPORARY = ".tmp"

ALONE = b"ends with its process\n"
"""What the marker of a job says that no coordinator goes on with: when nobody shows life any more, it is over."""

SOURCE_DIGITS = 8

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def short_hash(*parts: str, hex_digits: int) -> str:
    """The first hex digits of a SHA-256 over parts."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:hex_digits]


def source_key(job: JobSpec) -> str:
    """Names a job's source in file names. There are few sources in one folder."""
    return short_hash(job.source, hex_digits=SOURCE_DIGITS)


def job_key(job: JobSpec) -> str:
    """Names a job in file names: the source's key, a dash and the job's hash."""
    return f"{source_key(job)}-{short_hash(job.job_id, hex_digits=8)}"


def object_prefix(job: JobSpec, spec: ObjectSpec) -> str:
    """What the keys of all versions of an object begin with. 64 bits of path: a clash costs a fetch, not a wrong file."""
    return f"{source_key(job)}{short_hash(spec.path, hex_digits=16)}-"


def object_key(job: JobSpec, spec: ObjectSpec) -> str:
    """Names one version of an object. The digest is the version where there is one, so a new commit goes on with old bytes.

    Where the publisher names no version at all, the job is the version: nothing would notice bytes of two mixed in one file.
    Each life of an object that was begun anew has a key of its own, too: an agent that has yet to hear of it, as one that is cut off
    from its coordinator, goes on with the file of the life that it knows, and its bytes are mixed with nobody's.
    """
    version = [spec.digest] if spec.digest else [spec.etag, job.commit]
    if not any(version):
        version = [job.job_id]
    if spec.life:
        version += [job.job_id, str(spec.life)]
    return object_prefix(job, spec) + short_hash(*version, str(spec.size), hex_digits=16)


def object_identity(job: JobSpec, spec: ObjectSpec) -> bytes:
    """16 bytes that name one version of an object in its chunk maps."""
    return hashlib.sha256(
        f"{job.source}\0{spec.path}\0{object_key(job, spec)}".encode(errors="surrogatepass")
    ).digest()[:16]


def plain_name(agent_id: str) -> str:
    """An agent's id as it stands in file names: itself where it is plain, else a hash."""
    return agent_id if _PLAIN.fullmatch(agent_id) else short_hash(agent_id, hex_digits=16)
