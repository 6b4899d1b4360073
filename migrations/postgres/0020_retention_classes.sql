-- Classes of devices of which a producer keeps rows of the history for another time: a JSON list. NULL: there are none.
ALTER TABLE retentions ADD COLUMN IF NOT EXISTS classes TEXT;
