-- Up to when an account's tokens of other issuers are ended (it was logged out everywhere), and the time of issue of the one that stayed; NULL:
-- they were not. Milliseconds since 1970 UTC.
ALTER TABLE external_identities ADD COLUMN ended_at BIGINT;
ALTER TABLE external_identities ADD COLUMN kept_at BIGINT;
