-- Whether a producer that was registered with a device may speak for that device only.
ALTER TABLE users ADD COLUMN strict_device BOOLEAN;
-- What a record holds beside device, time and data: a JSON object, NULL where that is nothing.
ALTER TABLE data_history ADD COLUMN extra TEXT;
