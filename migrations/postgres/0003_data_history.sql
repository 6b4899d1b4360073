-- The optional history of records. payload is the record's `data`; the log's epoch and offset name the record, so that writing one twice keeps one row.
CREATE TABLE IF NOT EXISTS data_history (
  id BIGSERIAL PRIMARY KEY,
  producer_id INTEGER NOT NULL,
  device_id VARCHAR(255),
  payload JSONB NOT NULL,
  timestamp TIMESTAMPTZ NOT NULL
);
-- Apart from the table, because an adopted database may have it with the columns above only.
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS received_at TIMESTAMPTZ;
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS log_epoch BIGINT;
ALTER TABLE data_history ADD COLUMN IF NOT EXISTS log_offset BIGINT;

CREATE UNIQUE INDEX IF NOT EXISTS data_history_once ON data_history (producer_id, log_epoch, log_offset);
CREATE INDEX IF NOT EXISTS data_history_time ON data_history (producer_id, timestamp);
CREATE INDEX IF NOT EXISTS data_history_page ON data_history (producer_id, id);
