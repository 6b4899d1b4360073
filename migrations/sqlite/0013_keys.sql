-- Keys for programs. The key itself is never stored: SHA-256 of its 256 random bits names it. Times are milliseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS api_keys (
  id VARCHAR(32) PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name VARCHAR(100) NOT NULL,
  hash VARCHAR(64) NOT NULL UNIQUE,
  scopes TEXT NOT NULL, -- with blanks between them
  created_at BIGINT NOT NULL,
  expires_at BIGINT, -- NULL: never
  last_used_at BIGINT -- to the minute or so
);
CREATE INDEX IF NOT EXISTS api_keys_user ON api_keys (user_id, created_at);

-- When a session began, when its token was issued, and where its client is; NULL in rows from before this step.
ALTER TABLE refresh_tokens ADD COLUMN started_at BIGINT;
ALTER TABLE refresh_tokens ADD COLUMN issued_at BIGINT;
ALTER TABLE refresh_tokens ADD COLUMN address VARCHAR(64);
ALTER TABLE refresh_tokens ADD COLUMN user_agent VARCHAR(255);

-- A session has one token that is not spent, however often it was renewed.
CREATE INDEX IF NOT EXISTS refresh_tokens_live ON refresh_tokens (user_id) WHERE spent_at IS NULL;

-- A login that has checked the old password while it was changed sees that by this.
ALTER TABLE users ADD COLUMN password_changed_at BIGINT;

-- Tokens that set a new password, once.
CREATE TABLE IF NOT EXISTS password_resets (
  hash VARCHAR(64) PRIMARY KEY,
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  expires_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS password_resets_user ON password_resets (user_id);

-- Invitations to register, for REGISTRATION=invite.
CREATE TABLE IF NOT EXISTS invitations (
  id VARCHAR(32) PRIMARY KEY,
  hash VARCHAR(64) NOT NULL UNIQUE,
  role VARCHAR(50), -- NULL: either
  note VARCHAR(255),
  uses_left BIGINT NOT NULL,
  created_by BIGINT, -- NULL: the operator's command line
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);

-- Accounts whose owners have had them deleted, until everything of theirs is erased.
CREATE TABLE IF NOT EXISTS erasures (
  user_id BIGINT PRIMARY KEY,
  log_id BIGINT NOT NULL,
  asked_at BIGINT NOT NULL
);
