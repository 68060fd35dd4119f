-- Host policies bound the requests that are under way, too. 0: no bound.

ALTER TABLE host_policies ADD COLUMN connections INTEGER NOT NULL DEFAULT 0;
