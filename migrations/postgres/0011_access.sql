-- Everything that changed somebody's rights, in order: who did what to what, and when. Rows are added, never changed.
CREATE TABLE IF NOT EXISTS acts (
  id BIGSERIAL PRIMARY KEY,
  at BIGINT NOT NULL, -- milliseconds since 1970 UTC
  actor BIGINT, -- the account that did it; NULL: the operator's command line, or the platform itself
  act VARCHAR(64) NOT NULL, -- subscription.approve, device.revoke, key.create
  object VARCHAR(320) NOT NULL, -- subscription:12
  concern BIGINT, -- the accounts that may read of it
  other_concern BIGINT,
  detail TEXT -- JSON
);
CREATE INDEX IF NOT EXISTS acts_actor ON acts (actor, id);
CREATE INDEX IF NOT EXISTS acts_object ON acts (object, id);
CREATE INDEX IF NOT EXISTS acts_concern ON acts (concern, id);
CREATE INDEX IF NOT EXISTS acts_other_concern ON acts (other_concern, id);

-- Who may see a producer and subscribe to it: open, listed or private; NULL: as PRODUCER_VISIBILITY says.
ALTER TABLE users ADD COLUMN IF NOT EXISTS visibility VARCHAR(16);

-- Consent. `status` may be requested, invited, granted, denied or revoked beside the two from before. `granted` is in force like
-- `active`, but has a scope or an end: a program from before these takes it for ended, and delivers nothing rather than too much.
ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS requested_at BIGINT; -- milliseconds since 1970 UTC, like those below
ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS decided_at BIGINT;
ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS decided_by BIGINT; -- the account; NULL: the operator's command line
ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS expires_at BIGINT;
ALTER TABLE subscriptions ADD COLUMN IF NOT EXISTS scope TEXT; -- an agreement as JSON; NULL: everything
-- A producer's subscribers are counted out of this alone.
CREATE INDEX IF NOT EXISTS subscriptions_in_force ON subscriptions (producer_id, status, expires_at);
