-- How far readers of the log have come, and the name of each kept record, by which it stays one row whatever becomes of the log.

-- The life of the sender's outbox and the number in it: a record's name for ever. After the log lost its tail a record may come again
-- under another offset. Rows from before this step have none.
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS sender_epoch BIGINT;
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS sender_seq BIGINT;
CREATE UNIQUE INDEX IF NOT EXISTS data_history_name ON data_history (producer_id, sender_epoch, sender_seq) WHERE sender_epoch IS NOT NULL;

-- How far data_history has come in each producer's log: moved in the transaction that adds the rows.
CREATE TABLE IF NOT EXISTS history_cursors (
  producer_id BIGINT PRIMARY KEY,
  log_epoch BIGINT NOT NULL,
  log_offset BIGINT NOT NULL
);

-- How far a consumer has confirmed, by a name that it chose. updated_at is milliseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS cursors (
  consumer_id BIGINT NOT NULL,
  name VARCHAR(64) COLLATE "C" NOT NULL,
  producer_id BIGINT NOT NULL,
  log_epoch BIGINT NOT NULL,
  log_offset BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  PRIMARY KEY (consumer_id, name, producer_id)
);

-- Who does what only one node at a time shall do. expires_at is milliseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS leases (
  name VARCHAR(64) PRIMARY KEY,
  holder TEXT NOT NULL,
  expires_at BIGINT NOT NULL
);
