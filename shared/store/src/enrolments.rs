//! The table `enrolment_tokens`: who may become a device of a producer, once or several times. Only hashes of the tokens are kept.

use futures_util::TryFutureExt;
use motience_proto::model::{DeviceId, DeviceState, ProducerId};
use time::OffsetDateTime;

use motience_runtime::clock::{from_millis, millis};

use super::{
    Error, Store,
    devices::{END_CREDENTIALS, Labels, NewCredential, RELABEL, ROOM, labels, written},
    is_storable, on,
    row::row,
    transaction,
};

/// An enrolment token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// Its id, by which a producer takes it back.
    pub id: String,
    /// Producer of the devices.
    pub producer: ProducerId,
    /// The only device that it is for, if it names one.
    pub device: Option<String>,
    /// Labels that the devices get.
    pub labels: Labels,
    /// How often it may be used still.
    pub uses_left: i64,
    /// When it ends by itself.
    pub expires_at: OffsetDateTime,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// Outcome of [`Store::enrol`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// The device has this key now, and no other.
    Enrolled {
        /// Its producer.
        producer: ProducerId,
        /// Its name.
        device: DeviceId,
        /// Credentials that it had before and that ended.
        ended: Vec<String>,
    },
    /// The token is unknown, spent or expired.
    Invalid,
    /// Neither the token nor the device names a device.
    Nameless,
    /// The token names no device, and there is one of this name already.
    Exists,
    /// The device was revoked, and has to be restored first.
    Revoked,
    /// The key was enrolled before.
    KeyKnown,
    /// The producer has as many devices as it may.
    TooMany,
}

/// Gives a device a key. `false`: the key was enrolled before.
macro_rules! add_credential {
    ($db:expr, $producer:expr, $device:expr, $key:expr, $at:expr) => {
        sqlx::query(ADD_CREDENTIAL)
            .persistent(false)
            .bind(&$key.id)
            .bind($producer)
            .bind($device)
            .bind($key.algorithm)
            .bind(&$key.public_key)
            .bind(&$key.fingerprint)
            .bind(&$key.serial)
            .bind(millis($key.not_after))
            .bind($at)
            .execute(&mut *$db)
            .await?
            .rows_affected()
            > 0
    };
}

impl Store {
    /// Remembers a token by its hash.
    pub async fn add_enrolment(&self, hash: &str, token: &EnrolmentToken) -> Result<(), Error> {
        if !is_storable(token.producer.0) {
            return Err(Error::Unstorable("producer_id"));
        }
        let labels = written(&token.labels);
        on!(self, writer, |db| sqlx::query(ADD)
            .bind(hash)
            .bind(&token.id)
            .bind(token.producer.0)
            .bind(&token.device)
            .bind(&labels)
            .bind(token.uses_left)
            .bind(millis(token.expires_at))
            .bind(millis(token.created_at))
            .execute(db)
            .map_ok(drop))
    }

    /// The tokens of a producer that are still good, the newest first.
    pub async fn enrolments(&self, producer: ProducerId, now: OffsetDateTime) -> Result<Vec<EnrolmentToken>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(producer.0).bind(millis(now)).fetch_all(db))?;
        rows.into_iter().map(Row::token).collect()
    }

    /// Takes a token back; `None` where `producer` has none of this id. Without a producer: whoever's it is.
    pub async fn remove_enrolment(&self, producer: Option<ProducerId>, id: &str) -> Result<Option<EnrolmentToken>, Error> {
        if id.contains('\0') {
            return Ok(None);
        }
        let row =
            on!(self, writer, |db| sqlx::query_as::<_, Row>(REMOVE).bind(id).bind(producer.map(|producer| producer.0)).fetch_optional(db))?;
        row.map(Row::token).transpose()
    }

    /// Forgets tokens that are spent or have ended.
    pub async fn purge_enrolments(&self, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(PURGE).bind(millis(now)).execute(db).map_ok(drop))
    }

    /// Uses a token once: makes the device, or takes it over where the token names it, and gives it this key. All of it or nothing. `most`: how
    /// many devices a producer may have.
    pub async fn enrol(
        &self,
        hash: &str,
        named: Option<&DeviceId>,
        key: &NewCredential,
        most: u32,
        now: OffsetDateTime,
    ) -> Result<Enrolment, Error> {
        let at = millis(now);
        transaction!(self, |db| {
            let spent = sqlx::query_as::<_, Row>(SPEND).persistent(false).bind(hash).bind(at).fetch_optional(&mut *db).await?;
            let Some(token) = spent.map(Row::token).transpose()? else { return Ok(Enrolment::Invalid) };
            let own = token.device.as_deref().and_then(|device| DeviceId::new(device).ok());
            let Some(device) = own.as_ref().or(named).cloned() else { return Ok(Enrolment::Nameless) };
            let (producer, id) = (token.producer.0, device.as_str());
            let room: i64 =
                sqlx::query_scalar(ROOM).persistent(false).bind(producer).bind(id).bind(i64::from(most)).fetch_one(&mut *db).await?;
            if room == 0 {
                return Ok(Enrolment::TooMany);
            }
            let made = sqlx::query(MAKE_DEVICE)
                .persistent(false)
                .bind(producer)
                .bind(id)
                .bind(at)
                .bind(written(&token.labels))
                .execute(&mut *db)
                .await?
                .rows_affected();
            if made == 0 && own.is_none() {
                return Ok(Enrolment::Exists);
            }
            if made == 0 {
                let state: String = sqlx::query_scalar(STATE).persistent(false).bind(producer).bind(id).fetch_one(&mut *db).await?;
                if state == DeviceState::Revoked.as_str() {
                    return Ok(Enrolment::Revoked);
                }
                if !token.labels.is_empty() {
                    let relabel = sqlx::query(RELABEL).persistent(false).bind(producer).bind(id).bind(written(&token.labels));
                    relabel.execute(&mut *db).await?;
                }
            }
            let ended: Vec<String> =
                sqlx::query_scalar(END_CREDENTIALS).persistent(false).bind(producer).bind(id).bind(at).fetch_all(&mut *db).await?;
            if !add_credential!(db, producer, id, key, at) {
                return Ok(Enrolment::KeyKnown);
            }
            Enrolment::Enrolled { producer: token.producer, device, ended }
        })
    }

    /// Gives a device another key instead of its present one, which ends; names the keys that ended. `None`: it was enrolled before, or
    /// `present` is good no longer.
    pub async fn rotate_credential(
        &self,
        present: &str,
        producer: ProducerId,
        device: &str,
        key: &NewCredential,
        now: OffsetDateTime,
    ) -> Result<Option<Vec<String>>, Error> {
        let at = millis(now);
        transaction!(self, |db| {
            let ended: Vec<String> =
                sqlx::query_scalar(END_CREDENTIALS).persistent(false).bind(producer.0).bind(device).bind(at).fetch_all(&mut *db).await?;
            if !ended.iter().any(|id| id == present) {
                return Ok(None);
            }
            if !add_credential!(db, producer.0, device, key, at) {
                return Ok(None);
            }
            Some(ended)
        })
    }
}

macro_rules! columns {
    () => {
        "id, CAST(producer_id AS BIGINT) AS producer_id, device_id, labels, uses_left, expires_at, created_at"
    };
}

const ADD: &str = "INSERT INTO enrolment_tokens (hash, id, producer_id, device_id, labels, uses_left, expires_at, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM enrolment_tokens WHERE producer_id = $1 AND uses_left > 0 AND expires_at > $2 ORDER BY created_at DESC, id LIMIT 1000"
);
const REMOVE: &str = concat!("DELETE FROM enrolment_tokens WHERE id = $1 AND ($2 IS NULL OR producer_id = $2) RETURNING ", columns!());
const PURGE: &str = "DELETE FROM enrolment_tokens WHERE uses_left <= 0 OR expires_at <= $1";
const SPEND: &str = concat!(
    "UPDATE enrolment_tokens SET uses_left = uses_left - 1 WHERE hash = $1 AND uses_left > 0 AND expires_at > $2 RETURNING ",
    columns!()
);
const MAKE_DEVICE: &str = "INSERT INTO devices (producer_id, device_id, state, withheld, state_at, labels, created_at) \
     VALUES ($1, $2, 'active', FALSE, $3, $4, $3) ON CONFLICT (producer_id, device_id) DO NOTHING";
const STATE: &str = "SELECT state FROM devices WHERE producer_id = $1 AND device_id = $2";
const ADD_CREDENTIAL: &str = "INSERT INTO device_credentials \
     (id, producer_id, device_id, algorithm, public_key, fingerprint, serial, not_after, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (fingerprint) DO NOTHING";

row! {
    struct Row {
        id: String,
        producer_id: i64,
        device_id: Option<String>,
        labels: String,
        uses_left: i64,
        expires_at: i64,
        created_at: i64,
    }
}

impl Row {
    fn token(self) -> Result<EnrolmentToken, Error> {
        Ok(EnrolmentToken {
            id: self.id,
            producer: ProducerId(self.producer_id),
            device: self.device_id,
            labels: labels(&self.labels)?,
            uses_left: self.uses_left,
            expires_at: from_millis(self.expires_at),
            created_at: from_millis(self.created_at),
        })
    }
}
