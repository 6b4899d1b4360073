-- Refresh tokens by their id (the token itself is never stored) and the families that were revoked.
-- Times are milliseconds since 1970 UTC, so that both databases compare them alike.
CREATE TABLE IF NOT EXISTS refresh_tokens (
  id VARCHAR(64) PRIMARY KEY,
  family VARCHAR(64) NOT NULL,
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  expires_at BIGINT NOT NULL,
  spent_at BIGINT
);
CREATE INDEX IF NOT EXISTS refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX IF NOT EXISTS refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX IF NOT EXISTS refresh_tokens_expiry ON refresh_tokens (expires_at);

CREATE TABLE IF NOT EXISTS revoked_families (
  family VARCHAR(64) PRIMARY KEY,
  revoked_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL -- after this no token of the family is alive
);
CREATE INDEX IF NOT EXISTS revoked_families_time ON revoked_families (revoked_at);
