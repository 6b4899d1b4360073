-- When an account was closed, in milliseconds since 1970 UTC; NULL: it is open. A closed account keeps its row and its name.
ALTER TABLE users ADD COLUMN IF NOT EXISTS revoked_at BIGINT;
