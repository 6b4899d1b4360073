-- What is asked about accounts does not cost more the more accounts there are. Every node asks every few seconds who was revoked lately.
CREATE INDEX IF NOT EXISTS users_revoked ON users (revoked_at) WHERE revoked_at IS NOT NULL;
-- Where producers are private by default, those that are not are few.
CREATE INDEX IF NOT EXISTS users_shown ON users (id) WHERE visibility IN ('open', 'listed');
