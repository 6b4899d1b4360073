-- Accounts and subscriptions with the columns, names and constraints of the services before this platform. Times are UTC.
-- SQLite numbers rows by INTEGER PRIMARY KEY; AUTOINCREMENT never gives a number a second time, as a PostgreSQL sequence does not.
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  username VARCHAR(255) UNIQUE NOT NULL,
  password_hash VARCHAR(255) NOT NULL,
  role VARCHAR(50) NOT NULL, -- 'producer', 'consumer' or 'admin'
  device_id VARCHAR(255),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS subscriptions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  consumer_id INTEGER NOT NULL,
  producer_id INTEGER NOT NULL,
  status VARCHAR(50) DEFAULT 'active',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  UNIQUE(consumer_id, producer_id)
);

-- What the lists are read by: one role in order of id, one side of the subscriptions in order of id.
CREATE INDEX IF NOT EXISTS users_role ON users (role, id);
CREATE INDEX IF NOT EXISTS subscriptions_consumer ON subscriptions (consumer_id, id);
CREATE INDEX IF NOT EXISTS subscriptions_producer ON subscriptions (producer_id, id);
