"""The SQL of `sqlite.py`, one described statement a name. The tables are in migrations/."""

from __future__ import annotations

from .rows import JOB_COLUMNS, LEASE_COLUMNS, OBJECT_COLUMNS, SPEC_COLUMNS, TOKEN_COLUMNS


def _put(table: str, key: str, columns: tuple[str, ...]) -> str:
    """Insert a row, or replace what the row of that key holds. Names are this module's own, never from outside."""
    marks = ", ".join("?" * len(columns))
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name != key)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE SET {changes}"


_SPEC = ", ".join(SPEC_COLUMNS)
_OBJECT = ", ".join(OBJECT_COLUMNS)

NEXT_INCARNATION = "UPDATE meta SET value = value + 1 WHERE key = 'incarnation' RETURNING value"
"""Begin an incarnation. Returns its number."""

INCARNATION = "SELECT value FROM meta WHERE key = 'incarnation'"
"""The last incarnation's number."""

SKIP_INCARNATIONS = "UPDATE meta SET value = value + ? WHERE key = 'incarnation'"
"""What a copy was made of goes on: whoever starts from the copy must be of a later incarnation than all that ran meanwhile."""

# ---- jobs, leases, agents, hosts, credentials ---------------------------------------------------------------------------

PUT_JOB = _put("jobs", "job_id", JOB_COLUMNS)
JOB_EXISTS = "SELECT 1 FROM jobs WHERE job_id = ?"
JOBS = f"SELECT {', '.join(JOB_COLUMNS)} FROM jobs ORDER BY created_at, job_id"

PUT_FETCHED = """
INSERT INTO fetched (job_id, agent_id, bytes_fetched) VALUES (?, ?, ?)
ON CONFLICT (job_id, agent_id) DO UPDATE SET bytes_fetched = excluded.bytes_fetched
"""
FETCHED = "SELECT job_id, agent_id, bytes_fetched FROM fetched"

PUT_LEASE = _put("leases", "unit", LEASE_COLUMNS)
DROP_LEASE = "DELETE FROM leases WHERE unit = ?"
LEASES = f"SELECT {', '.join(LEASE_COLUMNS)} FROM leases ORDER BY token"

PUT_AGENT = _put("agents", "agent_id", ("agent_id", "name", "version", "zone"))
AGENTS = "SELECT agent_id, name, version, zone FROM agents ORDER BY agent_id"

PUT_HOST_POLICY = _put("host_policies", "host", ("host", "requests_per_s", "bytes_per_s", "connections"))
HOST_POLICIES = "SELECT host, requests_per_s, bytes_per_s, connections FROM host_policies ORDER BY host"

PUT_TOKEN = _put("tokens", "token_id", TOKEN_COLUMNS)
DELETE_TOKEN = "DELETE FROM tokens WHERE token_id = ?"
EXPIRE_TOKEN = "UPDATE tokens SET expires_at = ?2 WHERE token_id = ?1"
KEEP_REVOKED = """
INSERT OR REPLACE INTO revoked_tokens (token_id, secret_hash, revoked_at)
SELECT token_id, secret_hash, ?2 FROM tokens WHERE token_id = ?1
"""
REVOKED_TOKENS = "SELECT token_id, secret_hash, revoked_at FROM revoked_tokens ORDER BY token_id"
PUT_IDENTITY = _put("identities", "agent_id", ("agent_id", "credential"))
IDENTITIES = "SELECT agent_id, credential FROM identities ORDER BY agent_id"
TOKENS = f"SELECT {', '.join(TOKEN_COLUMNS)} FROM tokens ORDER BY token_id"

PUT_PROFILE = """
INSERT INTO host_profiles (job_id, host, profile) VALUES (?, ?, ?)
ON CONFLICT (job_id, host) DO UPDATE SET profile = excluded.profile
"""
PROFILES = "SELECT profile FROM host_profiles WHERE job_id = ? ORDER BY host"
FORGET_PROFILES = "DELETE FROM host_profiles WHERE job_id = ?"

# ---- objects ------------------------------------------------------------------------------------------------------------

ADD_OBJECT = """
INSERT INTO objects (job_id, path, size, digest, etag, url, status, failure, refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job_id, path) DO UPDATE SET
    size = excluded.size, digest = excluded.digest, etag = excluded.etag, url = excluded.url, status = excluded.status,
    failure = excluded.failure, refused = excluded.refused, failures = 0, skipped = 0, agent_id = '', tally = '',
    listed_digest = NULL
"""
"""Add an object, or begin anew with the one at that path, which keeps its id."""

FORGET_OBJECTS = "DELETE FROM objects WHERE job_id = ?"

COUNT_OBJECTS = "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE job_id = ?"

OBJECT_DONE = """
UPDATE objects
SET status = 'done', failure = NULL, size = ?, listed_digest = coalesce(listed_digest, iif(digest = '', '', NULL)),
    digest = coalesce(nullif(?, ''), digest), etag = coalesce(nullif(?, ''), etag), skipped = ?, agent_id = ?, tally = ?
WHERE object_id = ?
"""
"""An object is complete. What the agent did not compute stays as the publisher named it."""

OBJECT_FAILED = "UPDATE objects SET status = 'failed', failures = ?, failure = ? WHERE object_id = ?"
"""An object failed for good."""

OBJECT_RETRIED = "UPDATE objects SET failures = ?, failure = ? WHERE object_id = ?"
"""An object failed and stays queued."""

OBJECT_BEGUN_ANEW = """
UPDATE objects
SET life = ?, status = iif(status = 'done', 'queued', status), digest = coalesce(listed_digest, digest),
    listed_digest = NULL
WHERE object_id = ?
"""
"""What is there of an object is not it. A digest that an agent has computed of it says nothing of what comes next."""

FINISH_OBJECTS = "UPDATE objects SET status = 'done', failure = NULL WHERE job_id = ? AND status = 'queued'"
"""Every agent that has its copy has these."""

REQUEUE_FAILED = """
UPDATE objects SET status = 'queued', failures = 0, failure = NULL
WHERE job_id = ? AND status = 'failed' AND refused = 0
"""
"""Bring back a job's failed objects, but not names that its listing refused: they would be refused again."""

QUEUED_OBJECTS = f"""
SELECT {_SPEC}, failures FROM objects
WHERE job_id = ? AND status = 'queued'
ORDER BY work_order, object_id LIMIT ?
"""
"""The first queued objects in the order of work."""

QUEUED_OBJECTS_AFTER = f"""
SELECT * FROM (
    SELECT {_SPEC}, failures FROM objects
    WHERE job_id = ?1 AND status = 'queued' AND work_order = ?2 AND object_id > ?3
    ORDER BY object_id LIMIT ?4
)
UNION ALL
SELECT * FROM (
    SELECT {_SPEC}, failures FROM objects
    WHERE job_id = ?1 AND status = 'queued' AND work_order > ?2
    ORDER BY work_order, object_id LIMIT ?4
)
LIMIT ?4
"""
"""The next queued objects in the order of work. Two searches, because SQLite would answer one comparison of the pair
(work_order, object_id) by walking over all objects of equal size."""

LIST_OBJECTS = f"SELECT {_OBJECT} FROM objects WHERE job_id = ? AND object_id > ? ORDER BY object_id LIMIT ?"

LIST_FAILED_OBJECTS = f"""
SELECT {_OBJECT} FROM objects INDEXED BY objects_failed
WHERE job_id = ? AND object_id > ? AND status = 'failed'
ORDER BY object_id LIMIT ?
"""
"""As below, by an index of its own: the failed are few among many."""

LIST_OBJECTS_BY_STATUS = f"""
SELECT {_OBJECT} FROM objects
WHERE job_id = ? AND object_id > ? AND status = ?
ORDER BY object_id LIMIT ?
"""

GET_OBJECT = f"SELECT {_OBJECT} FROM objects WHERE object_id = ?"
