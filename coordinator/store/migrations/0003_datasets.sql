-- Dataset jobs: how the rows of each batch and of the whole table ended, and what the hosts were like. Tallies and profiles are JSON.

ALTER TABLE objects ADD COLUMN tally TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN rows_total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN rows_rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN tally TEXT NOT NULL DEFAULT '';

CREATE TABLE host_profiles (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    profile TEXT NOT NULL,
    PRIMARY KEY (job_id, host)
) STRICT;
