//! The table `device_cas`: the certification authorities of an installation's devices, one for each secret that signs tokens.

use futures_util::TryFutureExt;
use time::OffsetDateTime;

use motience_runtime::clock::millis;

use super::{Error, Store, on, row::row};

/// A certification authority, with its key under seal.
#[derive(Clone)]
pub struct StoredDeviceCa {
    /// The secret that its key is sealed under, by a hash that tells nothing of it.
    pub secret: String,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The sealed key.
    pub sealed_key: String,
}

impl Store {
    /// All of them: certificates of each are good, whichever secret the nodes have now.
    pub async fn device_cas(&self) -> Result<Vec<StoredDeviceCa>, Error> {
        let rows = on!(self, writer, |db| sqlx::query_as::<_, Row>(LIST).fetch_all(db))?;
        Ok(rows.into_iter().map(|Row { secret, certificate, sealed_key }| StoredDeviceCa { secret, certificate, sealed_key }).collect())
    }

    /// Keeps one, unless another node has kept one for the same secret.
    pub async fn keep_device_ca(&self, ca: &StoredDeviceCa, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(KEEP)
            .bind(&ca.secret)
            .bind(&ca.certificate)
            .bind(&ca.sealed_key)
            .bind(millis(now))
            .execute(db)
            .map_ok(drop))
    }
}

const LIST: &str = "SELECT secret, certificate, sealed_key FROM device_cas ORDER BY created_at DESC, secret";
const KEEP: &str =
    "INSERT INTO device_cas (secret, certificate, sealed_key, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (secret) DO NOTHING";

row! {
    struct Row {
        secret: String,
        certificate: String,
        sealed_key: String,
    }
}
