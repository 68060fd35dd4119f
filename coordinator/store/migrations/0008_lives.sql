-- An object that is begun anew, because what was there was not right, has another life: agents forget what they know of earlier ones.

ALTER TABLE objects ADD COLUMN life INTEGER NOT NULL DEFAULT 0;

-- '' where the publisher named no digest of an object that is done: its digest is one that an agent has computed.
ALTER TABLE objects ADD COLUMN listed_digest TEXT;
