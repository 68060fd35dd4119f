-- Replicated jobs: what came from agents instead of the origin, and, when the job has ended, its copies as JSON.

ALTER TABLE jobs ADD COLUMN bytes_from_peers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN replicas TEXT NOT NULL DEFAULT '';
