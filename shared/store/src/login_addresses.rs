//! The table `login_addresses`: where an account was logged in from. Bounded for each account, and forgotten after half a year.

use futures_util::TryFutureExt;
use motience_proto::model::UserId;
use time::{Duration, OffsetDateTime};

use motience_runtime::clock::millis;

use super::{Error, Store, on};

/// Addresses remembered for one account; the longest unseen make room.
const MAX_ADDRESSES: i64 = 1000;
/// How long an address is remembered after its last login.
const KEEP: Duration = Duration::days(180);
/// How exactly that is known: a login from an address that was seen since writes nothing.
const GRAIN: Duration = Duration::days(1);

impl Store {
    /// Remembers that an account was logged in to from `address`.
    pub async fn remember_address(&self, user: UserId, address: &str, now: OffsetDateTime) -> Result<(), Error> {
        let (at, stale) = (millis(now), millis(now - GRAIN));
        let written = on!(self, writer, |db| sqlx::query(REMEMBER)
            .bind(user.0)
            .bind(address)
            .bind(at)
            .bind(stale)
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        if written > 0 {
            on!(self, writer, |db| sqlx::query(BOUND).bind(user.0).bind(MAX_ADDRESSES).execute(db).map_ok(drop))?;
        }
        Ok(())
    }

    /// Whether an account was logged in to from `address` before.
    pub async fn is_known_address(&self, user: UserId, address: &str) -> Result<bool, Error> {
        let found = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(KNOWN).bind(user.0).bind(address).fetch_optional(db))?;
        Ok(found.is_some())
    }

    /// Forgets addresses that nobody came from for long.
    pub async fn purge_addresses(&self, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(PURGE).bind(millis(now - KEEP)).execute(db).map_ok(drop))
    }
}

const REMEMBER: &str = "INSERT INTO login_addresses (user_id, address, seen_at) VALUES ($1, $2, $3) \
     ON CONFLICT (user_id, address) DO UPDATE SET seen_at = EXCLUDED.seen_at WHERE login_addresses.seen_at < $4";
const BOUND: &str = "DELETE FROM login_addresses WHERE user_id = $1 AND address IN \
     (SELECT address FROM login_addresses WHERE user_id = $1 ORDER BY seen_at DESC, address LIMIT 1000000 OFFSET $2)";
const KNOWN: &str = "SELECT seen_at FROM login_addresses WHERE user_id = $1 AND address = $2";
const PURGE: &str = "DELETE FROM login_addresses WHERE seen_at < $1";
