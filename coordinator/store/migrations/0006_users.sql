-- Who submitted a job: quotas are counted by user.

ALTER TABLE jobs ADD COLUMN user TEXT NOT NULL DEFAULT '';
