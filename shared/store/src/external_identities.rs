//! The table `external_identities`: whose account a subject of another issuer has.

use futures_util::TryFutureExt;
use motience_proto::model::{Account, UserId};
use motience_runtime::clock::millis;
use time::OffsetDateTime;

use super::{Error, Store, accounts::TAKE_BACK, on};

impl Store {
    /// The account of a subject, closed or not; `None`: it has none yet.
    pub async fn external_account(&self, issuer: &str, subject: &str) -> Result<Option<Account>, Error> {
        let user = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(FIND).bind(issuer).bind(subject).fetch_optional(db))?;
        match user {
            Some(user) => self.account(UserId(user)).await,
            None => Ok(None),
        }
    }

    /// Gives a subject this account, which was just made for it. `false`: it was given another one meanwhile, and this one is gone.
    pub async fn add_external_identity(&self, issuer: &str, subject: &str, user: UserId, now: OffsetDateTime) -> Result<bool, Error> {
        let added = on!(self, writer, |db| sqlx::query(ADD)
            .bind(issuer)
            .bind(subject)
            .bind(user.0)
            .bind(millis(now))
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        if added == 0 {
            on!(self, writer, |db| sqlx::query(TAKE_BACK).bind(user.0).execute(db).map_ok(drop))?;
        }
        Ok(added > 0)
    }

    /// Whether an account is one that another issuer knows.
    pub async fn is_external(&self, user: UserId) -> Result<bool, Error> {
        let found = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(IS_EXTERNAL).bind(user.0).fetch_optional(db))?;
        Ok(found.is_some())
    }
}

const FIND: &str = "SELECT CAST(user_id AS BIGINT) FROM external_identities WHERE issuer = $1 AND subject = $2";
const ADD: &str = "INSERT INTO external_identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (issuer, subject) DO NOTHING";
const IS_EXTERNAL: &str = "SELECT CAST(user_id AS BIGINT) FROM external_identities WHERE user_id = $1 LIMIT 1";
