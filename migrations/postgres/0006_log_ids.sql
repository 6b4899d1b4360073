-- The log of each account, random for every account made from now on: a number may come back after the database was restored from a
-- backup, a log id does not. Accounts that are there already keep the log they have, which bears their number.
ALTER TABLE users ADD COLUMN IF NOT EXISTS log_id BIGINT;
UPDATE users SET log_id = id WHERE log_id IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS users_log_id ON users (log_id);

-- In whose log a cursor stands, and whose log a kept record comes from; NULL: the log that bears the producer's number.
ALTER TABLE cursors ADD COLUMN IF NOT EXISTS log_id BIGINT;
ALTER TABLE history_cursors ADD COLUMN IF NOT EXISTS log_id BIGINT;
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS log_id BIGINT;

-- What tells this installation from another that uses the same Redis: one row, made at the first start.
CREATE TABLE IF NOT EXISTS installation (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  id VARCHAR(64) NOT NULL
);
