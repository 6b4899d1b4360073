-- Kept records are found by when they came.
CREATE INDEX IF NOT EXISTS data_history_received ON data_history (producer_id, received_at);
