-- Accounts and subscriptions, word for word as the services before this platform made them, so that their database is adopted as it stands.
-- created_at has no time zone: it holds UTC, because every connection of ours sets the time zone to UTC.
CREATE TABLE IF NOT EXISTS users (
  id SERIAL PRIMARY KEY,
  username VARCHAR(255) UNIQUE NOT NULL,
  password_hash VARCHAR(255) NOT NULL,
  role VARCHAR(50) NOT NULL, -- 'producer', 'consumer' or 'admin'
  device_id VARCHAR(255),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS subscriptions (
  id SERIAL PRIMARY KEY,
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
