-- The optional history of records. payload is the record's `data`; the log's epoch and offset name the record, so that writing one twice keeps one row.
-- Times are UTC text of one width (2025-01-29T11:35:00.000000Z), so that comparing the text compares the times.
CREATE TABLE IF NOT EXISTS data_history (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  producer_id INTEGER NOT NULL,
  device_id VARCHAR(255),
  payload TEXT NOT NULL,
  timestamp TEXT NOT NULL,
  received_at TEXT,
  log_epoch BIGINT,
  log_offset BIGINT
);
CREATE UNIQUE INDEX IF NOT EXISTS data_history_once ON data_history (producer_id, log_epoch, log_offset);
CREATE INDEX IF NOT EXISTS data_history_time ON data_history (producer_id, timestamp);
CREATE INDEX IF NOT EXISTS data_history_page ON data_history (producer_id, id);
