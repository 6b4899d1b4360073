-- Addresses from which an account was logged in to before: from them its owner gets in while others guess from elsewhere.
CREATE TABLE IF NOT EXISTS login_addresses (
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  address VARCHAR(64) NOT NULL,
  seen_at BIGINT NOT NULL, -- milliseconds since 1970 UTC, to the day
  PRIMARY KEY (user_id, address)
);
CREATE INDEX IF NOT EXISTS login_addresses_seen ON login_addresses (seen_at);

-- What a spent refresh token was renewed with, and by whom: the same client is given the same successor again for a moment.
ALTER TABLE refresh_tokens ADD COLUMN IF NOT EXISTS successor VARCHAR(64);
ALTER TABLE refresh_tokens ADD COLUMN IF NOT EXISTS spent_by VARCHAR(64);

-- A new account's name is compared with the names of accounts from before names had a canonical form.
CREATE INDEX IF NOT EXISTS users_lower ON users (LOWER(username));
