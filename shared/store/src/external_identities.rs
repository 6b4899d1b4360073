//! The table `external_identities`: whose account a subject of another issuer has, and up to when its tokens are ended.

use futures_util::TryFutureExt;
use motience_auth::ExternalEnd;
use motience_proto::model::{Account, UserId};
use motience_runtime::clock::{from_millis, millis};
use time::OffsetDateTime;

use super::{Error, Store, accounts::TAKE_BACK, on, row::row};

/// The account of a subject of another issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The account, closed or not.
    pub account: Account,
    /// Up to when the subject's tokens are ended, where they are.
    pub end: Option<ExternalEnd>,
}

impl Store {
    /// The account of a subject; `None`: it has none yet.
    pub async fn external_account(&self, issuer: &str, subject: &str) -> Result<Option<ExternalAccount>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(FIND).bind(issuer).bind(subject).fetch_optional(db))?;
        let Some(row) = row else { return Ok(None) };
        let account = self.account(UserId(row.user_id)).await?;
        Ok(account.map(|account| ExternalAccount { account, end: row.end() }))
    }

    /// Ends the tokens of other issuers that an account got up to now, but that which was issued at `kept`. `None`: no other issuer knows it.
    pub async fn end_external(
        &self,
        user: UserId,
        kept: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Option<ExternalEnd>, Error> {
        let ended = on!(self, writer, |db| sqlx::query(END)
            .bind(user.0)
            .bind(millis(now))
            .bind(kept.map(millis))
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        // As whoever reads it finds it.
        let stored = |at: OffsetDateTime| from_millis(millis(at));
        Ok((ended > 0).then(|| ExternalEnd { at: stored(now), kept: kept.map(stored) }))
    }

    /// The accounts whose tokens of other issuers were ended at or after `since`.
    pub async fn ended_externals(&self, since: OffsetDateTime) -> Result<Vec<(UserId, ExternalEnd)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(ENDED).bind(millis(since)).fetch_all(db))?;
        Ok(rows.into_iter().filter_map(|row| Some((UserId(row.user_id), row.end()?))).collect())
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

macro_rules! columns {
    () => {
        "CAST(user_id AS BIGINT) AS user_id, ended_at, kept_at"
    };
}

const FIND: &str = concat!("SELECT ", columns!(), " FROM external_identities WHERE issuer = $1 AND subject = $2");
const END: &str = "UPDATE external_identities SET ended_at = $2, kept_at = $3 WHERE user_id = $1 AND (ended_at IS NULL OR ended_at <= $2)";
const ENDED: &str = concat!("SELECT ", columns!(), " FROM external_identities WHERE ended_at >= $1");
const ADD: &str = "INSERT INTO external_identities (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (issuer, subject) DO NOTHING";
const IS_EXTERNAL: &str = "SELECT CAST(user_id AS BIGINT) FROM external_identities WHERE user_id = $1 LIMIT 1";

row! {
    struct Row {
        user_id: i64,
        ended_at: Option<i64>,
        kept_at: Option<i64>,
    }
}

impl Row {
    fn end(&self) -> Option<ExternalEnd> {
        Some(ExternalEnd { at: from_millis(self.ended_at?), kept: self.kept_at.map(from_millis) })
    }
}
