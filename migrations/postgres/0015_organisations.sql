-- Plans: how much an account or an organisation may have. Limits are JSON: a newer program may know more of them.
CREATE TABLE IF NOT EXISTS plans (
  name VARCHAR(64) PRIMARY KEY,
  limits TEXT NOT NULL,
  changed_at BIGINT NOT NULL -- milliseconds since 1970 UTC, like all times here
);
CREATE TABLE IF NOT EXISTS account_plans (
  user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  plan VARCHAR(64) NOT NULL REFERENCES plans (name) ON DELETE CASCADE
);

-- Organisations own accounts, and have members. An account that is in none is an organisation of one.
CREATE TABLE IF NOT EXISTS organisations (
  id VARCHAR(32) PRIMARY KEY,
  name VARCHAR(64) NOT NULL UNIQUE,
  plan VARCHAR(64) REFERENCES plans (name) ON DELETE SET NULL,
  created_at BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS organisation_accounts (
  user_id INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  organisation_id VARCHAR(32) NOT NULL REFERENCES organisations (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS organisation_accounts_of ON organisation_accounts (organisation_id, user_id);
CREATE TABLE IF NOT EXISTS organisation_members (
  organisation_id VARCHAR(32) NOT NULL REFERENCES organisations (id) ON DELETE CASCADE,
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  role VARCHAR(16) NOT NULL, -- owner, manager or reader
  added_at BIGINT NOT NULL,
  PRIMARY KEY (organisation_id, user_id)
);
CREATE INDEX IF NOT EXISTS organisation_members_user ON organisation_members (user_id);
-- Tokens that make their holder a member, or have the organisation own the holder's account; good once.
CREATE TABLE IF NOT EXISTS organisation_invitations (
  id VARCHAR(32) PRIMARY KEY,
  hash VARCHAR(64) NOT NULL UNIQUE,
  organisation_id VARCHAR(32) NOT NULL REFERENCES organisations (id) ON DELETE CASCADE,
  role VARCHAR(16) NOT NULL, -- owner, manager, reader, or account
  created_by INTEGER, -- NULL: the operator's command line
  expires_at BIGINT NOT NULL
);

-- Records taken in and given out, by hour. A producer's row has its device; a consumer's has the producer that it read.
CREATE TABLE IF NOT EXISTS usage_hours (
  user_id INTEGER NOT NULL,
  hour BIGINT NOT NULL, -- its first second since 1970 UTC
  direction VARCHAR(3) NOT NULL, -- in or out
  device_id VARCHAR(255) NOT NULL, -- empty in rows of direction out
  producer_id INTEGER NOT NULL,
  records BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  PRIMARY KEY (user_id, hour, direction, producer_id, device_id)
);
-- How far the records of each producer's log are counted as taken in: moved in the transaction that counts them.
CREATE TABLE IF NOT EXISTS usage_cursors (
  producer_id INTEGER PRIMARY KEY,
  log_id BIGINT NOT NULL,
  log_epoch BIGINT NOT NULL,
  log_offset BIGINT NOT NULL
);
-- How far a consumer's records of a log are counted, so that a record given out again is counted once.
CREATE TABLE IF NOT EXISTS usage_marks (
  consumer_id INTEGER NOT NULL,
  producer_id INTEGER NOT NULL,
  log_epoch BIGINT NOT NULL,
  counted TEXT NOT NULL, -- ranges of offsets
  PRIMARY KEY (consumer_id, producer_id)
);
