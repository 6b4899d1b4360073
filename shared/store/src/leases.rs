//! The table `leases`: what only one node at a time shall do.
//!
//! A lease spares work, it proves nothing: clocks differ, and a holder may sleep past its end. An action that must not happen twice needs a
//! condition of its own, as the history's cursors are.

use std::time::Duration;

use futures_util::TryFutureExt;
use time::OffsetDateTime;

use motience_runtime::clock::millis;

use super::{Error, Store, on};

impl Store {
    /// Takes a lease or renews it, to last `ttl` from `now`. Whether `holder` has it now: not while another's lasts.
    pub async fn lease(&self, name: &str, holder: &str, ttl: Duration, now: OffsetDateTime) -> Result<bool, Error> {
        let now = millis(now);
        let until = now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
        let held = on!(self, writer, |db| sqlx::query(TAKE)
            .bind(name)
            .bind(holder)
            .bind(until)
            .bind(now)
            .execute(db)
            .map_ok(|d| d.rows_affected()));
        Ok(held? > 0)
    }

    /// Gives a lease back before its end. Another's is left alone.
    pub async fn release(&self, name: &str, holder: &str) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(RELEASE).bind(name).bind(holder).execute(db).map_ok(drop))
    }
}

const TAKE: &str = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at \
     WHERE leases.holder = EXCLUDED.holder OR leases.expires_at <= $4";
const RELEASE: &str = "DELETE FROM leases WHERE name = $1 AND holder = $2";
