-- Which agent took how many bytes of a job from the origin, in all.

CREATE TABLE fetched (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
    agent_id TEXT NOT NULL,
    bytes_fetched INTEGER NOT NULL,
    PRIMARY KEY (job_id, agent_id)
) STRICT;
