-- Credentials that were revoked, so that who presents one is told so; and the credential that each agent's identity belongs to.
CREATE TABLE revoked_tokens (
    token_id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    revoked_at REAL NOT NULL
) STRICT;

CREATE TABLE identities (
    agent_id TEXT PRIMARY KEY,
    credential TEXT NOT NULL
) STRICT;
