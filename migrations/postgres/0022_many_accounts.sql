-- What is asked about accounts does not cost more the more accounts there are. Every node asks every few seconds who was revoked lately.
CREATE INDEX IF NOT EXISTS users_revoked ON users (revoked_at) WHERE revoked_at IS NOT NULL;
-- Where producers are private by default, those that are not are few.
CREATE INDEX IF NOT EXISTS users_shown ON users (id) WHERE visibility IN ('open', 'listed');
-- Operators look for a part of a name. A server without the extension, or one that lets us make none, looks at every name instead.
DO $$
BEGIN
  CREATE EXTENSION IF NOT EXISTS pg_trgm;
  CREATE INDEX IF NOT EXISTS users_name_parts ON users USING gin (LOWER(username) gin_trgm_ops);
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE 'names of accounts have no index by their parts: %', SQLERRM;
END $$;
