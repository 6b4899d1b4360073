-- Accounts of people and programs that other issuers know: one for each subject of an issuer. Times are milliseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS external_identities (
  issuer VARCHAR(255) NOT NULL,
  subject VARCHAR(255) NOT NULL,
  user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (issuer, subject)
);
CREATE INDEX IF NOT EXISTS external_identities_user ON external_identities (user_id);
