//! The tables `devices` and `device_credentials`: a producer's devices, and the keys by which they are known.
//!
//! A state changes before credentials end, and a login looks at both after it has found its key: so one of the two sees the other.

use std::collections::BTreeMap;

use futures_util::TryFutureExt;
use motience_proto::model::{DeviceId, DeviceState, ProducerId};
use time::OffsetDateTime;

use motience_runtime::clock::{from_millis, millis};

use super::{Error, MAX_PAGE, Store, is_storable, on, row::row};

/// Free words of a producer for a device.
pub type Labels = BTreeMap<String, String>;

/// A device, as its producer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Producer of the device.
    pub producer: ProducerId,
    /// The device's name.
    pub device: String,
    /// Whether it may speak.
    pub state: DeviceState,
    /// Whether its records are kept from consumers.
    pub withheld: bool,
    /// When the state was set.
    pub state_at: OffsetDateTime,
    /// Words of the producer.
    pub labels: Labels,
    /// When it was heard of first.
    pub created_at: OffsetDateTime,
    /// The key that it is known by, if it has one.
    pub credential: Option<Credential>,
}

/// A key by which a device is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its id, which tokens made by it name.
    pub id: String,
    /// Kind of the key.
    pub algorithm: String,
    /// The SubjectPublicKeyInfo in Base64.
    pub public_key: String,
    /// When the newest certificate ends.
    pub not_after: OffsetDateTime,
    /// When the key was enrolled.
    pub created_at: OffsetDateTime,
    /// When it last got a token.
    pub last_login_at: Option<OffsetDateTime>,
    /// When it was ended.
    pub revoked_at: Option<OffsetDateTime>,
}

/// A key that is being enrolled, with its first certificate.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// A new random id.
    pub id: String,
    /// Kind of the key.
    pub algorithm: &'static str,
    /// The SubjectPublicKeyInfo in Base64.
    pub public_key: String,
    /// SHA-256 of the SubjectPublicKeyInfo in hex.
    pub fingerprint: String,
    /// Serial number of its certificate in hex.
    pub serial: String,
    /// When the certificate ends.
    pub not_after: OffsetDateTime,
}

/// A device whose records are refused or withheld.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restricted {
    /// Producer of the device.
    pub producer: ProducerId,
    /// The device's name.
    pub device: String,
    /// Whether it may speak.
    pub state: DeviceState,
    /// Whether its records are kept from consumers.
    pub withheld: bool,
}

impl Store {
    /// A device of a producer.
    pub async fn device(&self, producer: ProducerId, device: &str) -> Result<Option<Device>, Error> {
        if !DeviceId::is_valid(device) {
            return Ok(None);
        }
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(ONE).bind(producer.0).bind(device).fetch_optional(db))?;
        row.map(Row::device).transpose()
    }

    /// The devices of a producer by name, beginning after `after`; at most `limit`, and [`MAX_PAGE`].
    pub async fn devices(&self, producer: ProducerId, after: &str, limit: u32) -> Result<Vec<Device>, Error> {
        if after.contains('\0') {
            return Ok(Vec::new());
        }
        let limit = i64::from(limit.min(MAX_PAGE));
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(producer.0).bind(after).bind(limit).fetch_all(db))?;
        rows.into_iter().map(Row::device).collect()
    }

    /// All devices whose records are refused or withheld.
    pub async fn restricted_devices(&self) -> Result<Vec<Restricted>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, RestrictedRow>(RESTRICTED).fetch_all(db))?;
        rows.into_iter()
            .map(|row| {
                let state = state(&row.state)?;
                Ok(Restricted { producer: ProducerId(row.producer_id), device: row.device_id, state, withheld: row.withheld })
            })
            .collect()
    }

    /// Sets a device's state. Names the credentials that end with it. A device that nobody heard of is made, unless it would be active;
    /// one that is revoked is not quarantined, but stays revoked. `None`: there is no such device. Setting it again ends what is left. `most`:
    /// how many devices a producer may have.
    pub async fn set_device_state(
        &self,
        producer: ProducerId,
        device: &DeviceId,
        state: DeviceState,
        most: u32,
        now: OffsetDateTime,
    ) -> Result<Option<(Device, Vec<String>)>, Error> {
        if !is_storable(producer.0) {
            return Err(Error::Unstorable("producer_id"));
        }
        let (id, at) = (device.as_str(), millis(now));
        if state != DeviceState::Active && !self.has_room(producer, id, most).await? {
            return Err(Error::TooManyDevices);
        }
        let statement = match state {
            DeviceState::Active => RESTORE,
            DeviceState::Quarantined => QUARANTINE,
            DeviceState::Revoked => REVOKE,
        };
        on!(self, writer, |db| sqlx::query(statement).bind(producer.0).bind(id).bind(at).execute(db).map_ok(drop))?;
        let ended = match state {
            DeviceState::Revoked => {
                on!(self, writer, |db| sqlx::query_scalar::<_, String>(END_CREDENTIALS).bind(producer.0).bind(id).bind(at).fetch_all(db))?
            }
            DeviceState::Active | DeviceState::Quarantined => Vec::new(),
        };
        // By the writer, which has seen the change.
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(ONE).bind(producer.0).bind(id).fetch_optional(db))?;
        Ok(row.map(Row::device).transpose()?.map(|device| (device, ended)))
    }

    /// Whether a producer may have this device among its `most`: it has it, or has fewer.
    async fn has_room(&self, producer: ProducerId, device: &str, most: u32) -> Result<bool, Error> {
        let room =
            on!(self, writer, |db| sqlx::query_scalar::<_, i64>(ROOM).bind(producer.0).bind(device).bind(i64::from(most)).fetch_one(db))?;
        Ok(room > 0)
    }

    /// Gives a device these labels instead of those that it has. The device, and whether they are others; `None`: there is no such device.
    pub async fn label_device(&self, producer: ProducerId, device: &DeviceId, labels: &Labels) -> Result<Option<(Device, bool)>, Error> {
        let id = device.as_str();
        let changed = on!(self, writer, |db| sqlx::query(RELABEL)
            .bind(producer.0)
            .bind(id)
            .bind(written(labels))
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(ONE).bind(producer.0).bind(id).fetch_optional(db))?;
        Ok(row.map(Row::device).transpose()?.map(|device| (device, changed > 0)))
    }

    /// The device that a credential is of, with that credential, be it good or not.
    pub async fn device_of_credential(&self, id: &str) -> Result<Option<Device>, Error> {
        self.device_by(BY_CREDENTIAL, id).await
    }

    /// The device that a key is of, by the key's fingerprint; with that credential, be it good or not.
    pub async fn device_of_key(&self, fingerprint: &str) -> Result<Option<Device>, Error> {
        self.device_by(BY_KEY, fingerprint).await
    }

    async fn device_by(&self, statement: &'static str, key: &str) -> Result<Option<Device>, Error> {
        if key.contains('\0') {
            return Ok(None);
        }
        // By the writer: whoever enrolled a moment ago may come by another connection.
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(statement).bind(key).fetch_optional(db))?;
        row.map(Row::device).transpose()
    }

    /// Notes a new certificate for a key that is good; `false` where it is so no longer.
    pub async fn renew_credential(&self, id: &str, serial: &str, not_after: OffsetDateTime) -> Result<bool, Error> {
        let done = on!(self, writer, |db| sqlx::query(RENEW)
            .bind(id)
            .bind(serial)
            .bind(millis(not_after))
            .execute(db)
            .map_ok(|d| d.rows_affected()))?;
        Ok(done > 0)
    }

    /// Notes that a key got a token.
    pub async fn note_device_login(&self, id: &str, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(LOGGED_IN).bind(id).bind(millis(now)).execute(db).map_ok(drop))
    }

    /// The credentials that were ended at or after `since`.
    pub async fn ended_credentials(&self, since: OffsetDateTime) -> Result<Vec<String>, Error> {
        on!(self, reader, |db| sqlx::query_scalar::<_, String>(ENDED).bind(millis(since)).fetch_all(db))
    }
}

macro_rules! select {
    ($joined:literal, $rest:literal) => {
        concat!(
            "SELECT CAST(devices.producer_id AS BIGINT) AS producer_id, devices.device_id, devices.state, devices.withheld, devices.state_at, \
             devices.labels, devices.created_at, credential.id AS credential_id, credential.algorithm, credential.public_key, \
             credential.not_after, credential.created_at AS enrolled_at, credential.last_login_at, credential.revoked_at \
             FROM devices LEFT JOIN device_credentials AS credential ON credential.producer_id = devices.producer_id \
             AND credential.device_id = devices.device_id",
            $joined,
            $rest
        )
    };
}

const ONE: &str = select!(" AND credential.revoked_at IS NULL", " WHERE devices.producer_id = $1 AND devices.device_id = $2");
const LIST: &str = select!(
    " AND credential.revoked_at IS NULL",
    " WHERE devices.producer_id = $1 AND devices.device_id > $2 ORDER BY devices.device_id LIMIT $3"
);
const BY_CREDENTIAL: &str = select!("", " WHERE credential.id = $1");
const BY_KEY: &str = select!("", " WHERE credential.fingerprint = $1");
const RESTRICTED: &str =
    "SELECT CAST(producer_id AS BIGINT) AS producer_id, device_id, state, withheld FROM devices WHERE state <> 'active'";
const RESTORE: &str = "UPDATE devices SET state = 'active', withheld = FALSE, state_at = $3 \
     WHERE producer_id = $1 AND device_id = $2 AND state <> 'active'";
const QUARANTINE: &str = "INSERT INTO devices (producer_id, device_id, state, withheld, state_at, labels, created_at) \
     VALUES ($1, $2, 'quarantined', TRUE, $3, '{}', $3) ON CONFLICT (producer_id, device_id) DO UPDATE \
     SET state = 'quarantined', withheld = TRUE, state_at = EXCLUDED.state_at WHERE devices.state = 'active'";
const REVOKE: &str = "INSERT INTO devices (producer_id, device_id, state, withheld, state_at, labels, created_at) \
     VALUES ($1, $2, 'revoked', FALSE, $3, '{}', $3) ON CONFLICT (producer_id, device_id) DO UPDATE \
     SET state = 'revoked', state_at = EXCLUDED.state_at WHERE devices.state <> 'revoked'";
/// 1 where the producer `$1` has the device `$2`, or fewer than `$3` devices.
pub(super) const ROOM: &str = "SELECT CAST(CASE WHEN EXISTS (SELECT 1 FROM devices WHERE producer_id = $1 AND device_id = $2) \
     OR (SELECT COUNT(*) FROM devices WHERE producer_id = $1) < $3 THEN 1 ELSE 0 END AS BIGINT)";
pub(super) const RELABEL: &str = "UPDATE devices SET labels = $3 WHERE producer_id = $1 AND device_id = $2 AND labels <> $3";
/// Ends all credentials of the device `$2` of the producer `$1`.
pub(super) const END_CREDENTIALS: &str = "UPDATE device_credentials SET revoked_at = $3 \
     WHERE producer_id = $1 AND device_id = $2 AND revoked_at IS NULL RETURNING id";
const RENEW: &str = "UPDATE device_credentials SET serial = $2, not_after = $3 WHERE id = $1 AND revoked_at IS NULL";
const LOGGED_IN: &str = "UPDATE device_credentials SET last_login_at = $2 WHERE id = $1";
const ENDED: &str = "SELECT id FROM device_credentials WHERE revoked_at >= $1";

row! {
    struct Row {
        producer_id: i64,
        device_id: String,
        state: String,
        withheld: bool,
        state_at: i64,
        labels: String,
        created_at: i64,
        credential_id: Option<String>,
        algorithm: Option<String>,
        public_key: Option<String>,
        not_after: Option<i64>,
        enrolled_at: Option<i64>,
        last_login_at: Option<i64>,
        revoked_at: Option<i64>,
    }
}

row! {
    struct RestrictedRow {
        producer_id: i64,
        device_id: String,
        state: String,
        withheld: bool,
    }
}

impl Row {
    fn device(self) -> Result<Device, Error> {
        let credential = self.credential_id.map(|id| Credential {
            id,
            algorithm: self.algorithm.unwrap_or_default(),
            public_key: self.public_key.unwrap_or_default(),
            not_after: from_millis(self.not_after.unwrap_or_default()),
            created_at: from_millis(self.enrolled_at.unwrap_or_default()),
            last_login_at: self.last_login_at.map(from_millis),
            revoked_at: self.revoked_at.map(from_millis),
        });
        Ok(Device {
            producer: ProducerId(self.producer_id),
            device: self.device_id,
            state: state(&self.state)?,
            withheld: self.withheld,
            state_at: from_millis(self.state_at),
            labels: labels(&self.labels)?,
            created_at: from_millis(self.created_at),
            credential,
        })
    }
}

fn state(text: &str) -> Result<DeviceState, Error> {
    text.parse().map_err(undecodable)
}

pub(super) fn labels(text: &str) -> Result<Labels, Error> {
    serde_json::from_str(text).map_err(undecodable)
}

/// Labels as they are stored.
pub(super) fn written(labels: &Labels) -> String {
    serde_json::json!(labels).to_string()
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(sqlx::Error::Decode(Box::new(error)))
}
