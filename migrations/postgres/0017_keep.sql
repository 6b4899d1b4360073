-- The audit log: the table `acts`, chained by hash. A row that a program from before this step adds has no place in the chain until a
-- later one gives it one.
ALTER TABLE acts ADD COLUMN IF NOT EXISTS outcome VARCHAR(16); -- refused or failed; NULL: done
ALTER TABLE acts ADD COLUMN IF NOT EXISTS seal VARCHAR(64); -- digest of the row of act_origins
ALTER TABLE acts ADD COLUMN IF NOT EXISTS chain BIGINT; -- its place in the chain, from 1
ALTER TABLE acts ADD COLUMN IF NOT EXISTS hash VARCHAR(64); -- over the hash of the line before and over its own columns
CREATE UNIQUE INDEX IF NOT EXISTS acts_chain ON acts (chain);
CREATE INDEX IF NOT EXISTS acts_unchained ON acts (id) WHERE chain IS NULL;

-- Where acts came from. Apart from them, so that it can be erased with its account while the chain holds.
CREATE TABLE IF NOT EXISTS act_origins (
  act_id BIGINT PRIMARY KEY,
  account BIGINT, -- the account with whose end it ends
  address VARCHAR(64) NOT NULL,
  salt VARCHAR(32) NOT NULL
);
CREATE INDEX IF NOT EXISTS act_origins_account ON act_origins (account);

-- The end of the chain, by which it is noticed that its last lines are gone. One row.
CREATE TABLE IF NOT EXISTS audit_head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  chain BIGINT NOT NULL,
  hash VARCHAR(64) NOT NULL
);
INSERT INTO audit_head (one, chain, hash) VALUES (1, 0, '') ON CONFLICT (one) DO NOTHING;

-- Records that are to be erased: of a device, of a span, or both. A row stays once it is done, and tells what was done.
CREATE TABLE IF NOT EXISTS record_erasures (
  id BIGSERIAL PRIMARY KEY,
  producer_id BIGINT NOT NULL,
  log_id BIGINT NOT NULL,
  device_id VARCHAR(255), -- NULL: of all devices
  from_at BIGINT, -- arrival, in milliseconds since 1970 UTC
  to_at BIGINT,
  first_offset BIGINT,
  last_offset BIGINT,
  asked_at BIGINT NOT NULL,
  asked_by BIGINT, -- the account; NULL: the operator's command line
  until_epoch BIGINT, -- the end of the log when the first round began: what came later stays
  until_offset BIGINT,
  records BIGINT NOT NULL DEFAULT 0, -- erased so far, in the log and in the history
  history_rows BIGINT NOT NULL DEFAULT 0,
  done_at BIGINT
);
CREATE INDEX IF NOT EXISTS record_erasures_open ON record_erasures (id) WHERE done_at IS NULL;
CREATE INDEX IF NOT EXISTS record_erasures_producer ON record_erasures (producer_id, id);

-- What a producer wants kept, where that is less than the platform keeps. NULL: as the platform does.
CREATE TABLE IF NOT EXISTS retentions (
  producer_id BIGINT PRIMARY KEY,
  log_age BIGINT, -- milliseconds
  log_bytes BIGINT,
  history_age BIGINT -- milliseconds
);
