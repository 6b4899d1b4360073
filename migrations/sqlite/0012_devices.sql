-- Devices of a producer. One that has never enrolled has a row once somebody has quarantined or revoked it.
-- Times are milliseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS devices (
  producer_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  device_id VARCHAR(255) NOT NULL,
  state VARCHAR(16) NOT NULL, -- active, quarantined, revoked
  withheld BOOLEAN NOT NULL, -- its records are kept from consumers; stays while a quarantined device is revoked
  state_at BIGINT NOT NULL,
  labels TEXT NOT NULL, -- a JSON object of texts
  created_at BIGINT NOT NULL,
  PRIMARY KEY (producer_id, device_id)
);
CREATE INDEX IF NOT EXISTS devices_state ON devices (state) WHERE state <> 'active';

-- Keys by which devices are known. A device has one that is good; a key is good for one device, and never again once it is revoked.
CREATE TABLE IF NOT EXISTS device_credentials (
  id VARCHAR(64) PRIMARY KEY,
  producer_id INTEGER NOT NULL,
  device_id VARCHAR(255) NOT NULL,
  algorithm VARCHAR(16) NOT NULL,
  public_key TEXT NOT NULL, -- the SubjectPublicKeyInfo in Base64
  fingerprint VARCHAR(64) NOT NULL UNIQUE, -- its SHA-256 in hex
  serial VARCHAR(64) NOT NULL, -- of the newest certificate, in hex
  not_after BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  last_login_at BIGINT,
  revoked_at BIGINT,
  FOREIGN KEY (producer_id, device_id) REFERENCES devices (producer_id, device_id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS device_credentials_device ON device_credentials (producer_id, device_id);
CREATE INDEX IF NOT EXISTS device_credentials_revoked ON device_credentials (revoked_at) WHERE revoked_at IS NOT NULL;

-- Enrolment tokens by their SHA-256 in hex: the token itself is never stored.
CREATE TABLE IF NOT EXISTS enrolment_tokens (
  hash VARCHAR(64) PRIMARY KEY,
  id VARCHAR(64) NOT NULL UNIQUE,
  producer_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  device_id VARCHAR(255),
  labels TEXT NOT NULL,
  uses_left BIGINT NOT NULL,
  expires_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS enrolment_tokens_producer ON enrolment_tokens (producer_id, created_at);

-- Certification authorities of devices. One for each secret that signs tokens: its key is sealed under that secret.
CREATE TABLE IF NOT EXISTS device_cas (
  secret VARCHAR(64) PRIMARY KEY, -- which secret, by a hash that tells nothing of it
  certificate TEXT NOT NULL, -- PEM
  sealed_key TEXT NOT NULL, -- Base64
  created_at BIGINT NOT NULL
);
