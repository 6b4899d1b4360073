-- Spent refresh tokens are removed an hour after they were spent: by this index they are found.
CREATE INDEX IF NOT EXISTS refresh_tokens_spent ON refresh_tokens (spent_at) WHERE spent_at IS NOT NULL;
