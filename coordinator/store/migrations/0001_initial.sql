-- The coordinator's durable facts. Run inside a transaction by sqlite.py, which also sets user_version.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

INSERT INTO meta (key, value) VALUES ('incarnation', 0);

-- Times are seconds since the epoch. spec and failure are JSON; request is JSON that only its writer reads.
CREATE TABLE jobs (
    job_id TEXT PRIMARY KEY,
    uri TEXT NOT NULL,
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    request TEXT NOT NULL,
    priority INTEGER NOT NULL,
    created_at REAL NOT NULL,
    status TEXT NOT NULL,
    paused INTEGER NOT NULL,
    spec TEXT,
    objects_total INTEGER NOT NULL,
    bytes_total INTEGER NOT NULL,
    objects_done INTEGER NOT NULL,
    objects_skipped INTEGER NOT NULL,
    objects_failed INTEGER NOT NULL,
    objects_refused INTEGER NOT NULL,
    bytes_done INTEGER NOT NULL,
    bytes_fetched INTEGER NOT NULL,
    failure TEXT,
    ended_at REAL
) STRICT;

-- AUTOINCREMENT: an id is never used again, so that a late report about a forgotten object cannot name another one.
-- work_order ascends in the order of work: largest first, unknown sizes before all (order.py).
CREATE TABLE objects (
    object_id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    size INTEGER,
    digest TEXT NOT NULL DEFAULT '',
    etag TEXT NOT NULL DEFAULT '',
    url TEXT NOT NULL DEFAULT '',
    status TEXT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    skipped INTEGER NOT NULL DEFAULT 0,
    agent_id TEXT NOT NULL DEFAULT '',
    refused INTEGER NOT NULL DEFAULT 0,
    work_order INTEGER NOT NULL GENERATED ALWAYS AS (-coalesce(size, 4611686018427387904)) VIRTUAL,
    UNIQUE (job_id, path)
) STRICT;

CREATE INDEX objects_queued ON objects (job_id, work_order, object_id) WHERE status = 'queued';
CREATE INDEX objects_failed ON objects (job_id, object_id) WHERE status = 'failed';
CREATE INDEX objects_of_job ON objects (job_id, object_id);

CREATE TABLE leases (
    unit TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    agent_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    job_id TEXT NOT NULL,
    object_id INTEGER NOT NULL,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL
) STRICT;

CREATE TABLE agents (
    agent_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    zone TEXT NOT NULL
) STRICT;

CREATE TABLE host_policies (
    host TEXT PRIMARY KEY,
    requests_per_s REAL NOT NULL,
    bytes_per_s REAL NOT NULL
) STRICT;

CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL
) STRICT;
