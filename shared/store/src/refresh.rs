//! The tables `refresh_tokens` and `revoked_families`.
//!
//! A refresh token works once. Those that came from one login are a family; using a spent one shows that it was stolen, and the
//! caller then revokes the family. A session has one row, beside those of tokens that were spent within the last hour: a token of the family that has no
//! row any more was spent before. For a moment the client that spent it may use it again, and gets what it got: two of its tabs renewed
//! the login at once, or the answer was lost. Only ids are stored: nobody can make a token out of the database.

use std::time::Duration;

use futures_util::TryFutureExt;
use motience_auth::RefreshClaims;
use motience_proto::model::UserId;
use time::OffsetDateTime;

use motience_runtime::clock::{from_millis, millis};

use super::{Error, Store, is_storable, on, row::row};

/// A refresh token that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// Its `jti`.
    pub id: String,
    /// The login it goes back to.
    pub family: String,
    /// The account that it is for.
    pub user: UserId,
    /// When it ends by itself.
    pub expires_at: OffsetDateTime,
}

/// Where and when the token of a session was issued.
#[derive(Clone, Copy, Debug)]
pub struct Issued<'a> {
    /// When.
    pub at: OffsetDateTime,
    /// The client's address.
    pub address: &'a str,
    /// How the client's program calls itself.
    pub user_agent: Option<&'a str>,
    /// The id of the token that this one takes the place of; `None`: a session begins.
    pub renews: Option<&'a str>,
}

/// A session of an account: a login and all that it was renewed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSession {
    /// The family of its tokens.
    pub family: String,
    /// When it began; `None`: before sessions were listed.
    pub started_at: Option<OffsetDateTime>,
    /// When it was renewed last.
    pub used_at: Option<OffsetDateTime>,
    /// When it ends unless it is renewed.
    pub expires_at: OffsetDateTime,
    /// Address of its client, then.
    pub address: Option<String>,
    /// How its client's program called itself, then.
    pub user_agent: Option<String>,
}

/// An attempt to use a refresh token.
#[derive(Clone, Copy, Debug)]
pub struct Spending<'a> {
    /// The id of the token that will take its place, made for this attempt.
    pub successor: &'a str,
    /// Who tries, such as an address.
    pub client: &'a str,
    /// How long after its use the same client gets the same successor again.
    pub leeway: Duration,
}

/// Outcome of the use of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spend {
    /// The token was good, and is now spent.
    Fresh(RefreshToken),
    /// This client spent it a moment ago.
    Repeated {
        /// The token.
        token: RefreshToken,
        /// The id of what it was renewed with.
        successor: String,
        /// When it was spent, to the millisecond.
        at: OffsetDateTime,
    },
    /// The token was spent before: revoke its family.
    Reused(RefreshToken),
    /// Never issued, expired, or of a revoked family.
    Unknown,
}

impl Store {
    /// Remembers a token that is about to be handed out. A token that is known already stays as it is.
    pub async fn add_refresh(&self, token: &RefreshToken, issued: Option<Issued<'_>>) -> Result<(), Error> {
        if !is_storable(token.user.0) {
            return Err(Error::Unstorable("user_id"));
        }
        on!(self, writer, |db| sqlx::query(ADD)
            .bind(&token.id)
            .bind(&token.family)
            .bind(token.user.0)
            .bind(millis(token.expires_at))
            .bind(issued.map(|issued| millis(issued.at)))
            .bind(issued.map(|issued| issued.address))
            .bind(issued.and_then(|issued| issued.user_agent))
            .bind(issued.and_then(|issued| issued.renews))
            .execute(db)
            .map_ok(drop))
    }

    /// The sessions of an account that may still be renewed, the one used last first.
    pub async fn sessions_of(&self, user: UserId, now: OffsetDateTime) -> Result<Vec<AccountSession>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, SessionRow>(SESSIONS)
            .bind(user.0)
            .bind(millis(now))
            .bind(MAX_SESSIONS)
            .fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Ends one session of an account; `false` where it has no such session.
    pub async fn end_session(&self, user: UserId, family: &str, now: OffsetDateTime) -> Result<bool, Error> {
        let owner = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(OWNER).bind(family).bind(millis(now)).fetch_optional(db))?;
        Ok(owner == Some(user.0) && self.revoke_family(family, now).await?)
    }

    /// Uses a token up. Of any number of concurrent calls with one token, on whichever nodes, exactly one gets [`Spend::Fresh`], and all
    /// calls of its client get the same successor.
    pub async fn spend_refresh(&self, token: &RefreshToken, spending: Spending<'_>, now: OffsetDateTime) -> Result<Spend, Error> {
        let (id, at) = (token.id.as_str(), millis(now));
        let fresh = on!(self, writer, |db| sqlx::query_as::<_, Row>(SPEND)
            .bind(id)
            .bind(at)
            .bind(spending.successor)
            .bind(spending.client)
            .fetch_optional(db))?;
        if let Some(row) = fresh {
            return Ok(Spend::Fresh(row.token()));
        }
        // By the writer, which has seen what another call just spent.
        let spent = on!(self, writer, |db| sqlx::query_as::<_, Row>(FIND_SPENT).bind(id).bind(at).fetch_optional(db))?;
        let Some(row) = spent else {
            // Older than the one that lives: a database that was restored may not know the newest.
            let lives = on!(self, writer, |db| sqlx::query_scalar::<_, i64>(LIVES)
                .bind(&token.family)
                .bind(at)
                .bind(token.user.0)
                .bind(millis(token.expires_at))
                .fetch_optional(db))?;
            return Ok(if lives.is_some() { Spend::Reused(token.clone()) } else { Spend::Unknown });
        };
        let recent = row.spent_at.map(from_millis).filter(|&spent| now - spent <= spending.leeway);
        Ok(match (recent, row.successor.clone()) {
            (Some(at), Some(successor)) if row.spent_by.as_deref() == Some(spending.client) => {
                Spend::Repeated { token: row.token(), successor, at }
            }
            _ => Spend::Reused(row.token()),
        })
    }

    /// Whether a family is revoked.
    pub async fn is_family_revoked(&self, family: &str) -> Result<bool, Error> {
        let found = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(IS_REVOKED).bind(family).fetch_optional(db))?;
        Ok(found.is_some())
    }

    /// Ends all tokens of a family, for ever; `false` where it had ended before.
    pub async fn revoke_family(&self, family: &str, now: OffsetDateTime) -> Result<bool, Error> {
        let ended =
            on!(self, writer, |db| sqlx::query(REVOKE).bind(family).bind(millis(now)).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(ended > 0)
    }

    /// Ends all families of an account but `keep`, and names those that were alive.
    pub async fn revoke_user(&self, user: UserId, keep: Option<&str>, now: OffsetDateTime) -> Result<Vec<String>, Error> {
        let keep = keep.unwrap_or_default();
        on!(self, writer, |db| sqlx::query_scalar::<_, String>(REVOKE_USER).bind(user.0).bind(millis(now)).bind(keep).fetch_all(db))
    }

    /// The families revoked at or after `since`. With `since` one access token's life ago, these are all whose access tokens
    /// may still be alive: what a starting node must know.
    pub async fn revoked_families(&self, since: OffsetDateTime) -> Result<Vec<String>, Error> {
        on!(self, reader, |db| sqlx::query_scalar::<_, String>(REVOKED).bind(millis(since)).fetch_all(db))
    }

    /// Forgets some of what has expired or was spent an hour ago, and tells how many rows that were.
    pub async fn purge_refresh(&self, now: OffsetDateTime) -> Result<u64, Error> {
        let (now, spent) = (millis(now), millis(now - SPENT_FOR));
        let mut gone = 0;
        for (statement, before) in [(PURGE_EXPIRED, now), (PURGE_SPENT, spent), (PURGE_FAMILIES, now)] {
            gone += on!(self, writer, |db| sqlx::query(statement).bind(before).execute(db).map_ok(|done| done.rows_affected()))?;
        }
        Ok(gone)
    }
}

/// How long a spent token is remembered by itself: longer than a client that spent it may use it again.
const SPENT_FOR: time::Duration = time::Duration::HOUR;
/// Sessions in one list.
const MAX_SESSIONS: i64 = 1000;

const ADD: &str = "INSERT INTO refresh_tokens (id, family, user_id, expires_at, started_at, issued_at, address, user_agent) \
     VALUES ($1, $2, $3, $4, CASE WHEN CAST($8 AS VARCHAR) IS NULL THEN CAST($5 AS BIGINT) \
     ELSE (SELECT old.started_at FROM refresh_tokens old WHERE old.id = $8) END, CAST($5 AS BIGINT), $6, $7) ON CONFLICT (id) DO NOTHING";
const SESSIONS: &str = "SELECT family, started_at, issued_at, expires_at, address, user_agent FROM refresh_tokens \
     WHERE user_id = $1 AND spent_at IS NULL AND expires_at > $2 \
     AND NOT EXISTS (SELECT 1 FROM revoked_families WHERE revoked_families.family = refresh_tokens.family) \
     ORDER BY COALESCE(issued_at, 0) DESC, family LIMIT $3";
const OWNER: &str = "SELECT CAST(MAX(user_id) AS BIGINT) FROM refresh_tokens WHERE family = $1 AND expires_at > $2 HAVING COUNT(*) > 0";

macro_rules! columns {
    () => {
        "id, family, CAST(user_id AS BIGINT) AS user_id, expires_at, spent_at, successor, spent_by"
    };
}

const SPEND: &str = concat!(
    "UPDATE refresh_tokens SET spent_at = $2, successor = $3, spent_by = $4 WHERE id = $1 AND spent_at IS NULL AND expires_at > $2 \
     AND NOT EXISTS (SELECT 1 FROM revoked_families WHERE revoked_families.family = refresh_tokens.family) RETURNING ",
    columns!()
);
const FIND_SPENT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM refresh_tokens WHERE id = $1 AND spent_at IS NOT NULL AND expires_at > $2 \
     AND NOT EXISTS (SELECT 1 FROM revoked_families WHERE revoked_families.family = refresh_tokens.family)"
);

// A family is remembered as long as its longest token would have lived, and as long as any token of it is here: one may have
// been added while it was being revoked.
const REVOKE: &str = "INSERT INTO revoked_families (family, revoked_at, expires_at) \
     SELECT $1, $2, COALESCE(MAX(expires_at), $2) FROM refresh_tokens WHERE family = $1 \
     ON CONFLICT (family) DO NOTHING";
const REVOKE_USER: &str = "INSERT INTO revoked_families (family, revoked_at, expires_at) \
     SELECT family, $2, MAX(expires_at) FROM refresh_tokens WHERE user_id = $1 AND expires_at > $2 AND family <> $3 GROUP BY family \
     ON CONFLICT (family) DO NOTHING RETURNING family";
const IS_REVOKED: &str = "SELECT revoked_at FROM revoked_families WHERE family = $1";
const REVOKED: &str = "SELECT family FROM revoked_families WHERE revoked_at >= $1 ORDER BY revoked_at";
const LIVES: &str = "SELECT CAST(1 AS BIGINT) FROM refresh_tokens WHERE family = $1 AND spent_at IS NULL AND expires_at > $2 \
     AND user_id = $3 AND expires_at >= $4 \
     AND NOT EXISTS (SELECT 1 FROM revoked_families WHERE revoked_families.family = refresh_tokens.family) LIMIT 1";

/// Deletes some rows of a table, by its key.
macro_rules! purge {
    ($table:literal, $key:literal, $condition:literal) => {
        concat!("DELETE FROM ", $table, " WHERE ", $key, " IN (SELECT ", $key, " FROM ", $table, " WHERE ", $condition, " LIMIT 2000)")
    };
}
const PURGE_EXPIRED: &str = purge!("refresh_tokens", "id", "expires_at <= $1");
const PURGE_SPENT: &str = purge!("refresh_tokens", "id", "spent_at <= $1");
const PURGE_FAMILIES: &str = purge!(
    "revoked_families",
    "family",
    "expires_at <= $1 AND NOT EXISTS (SELECT 1 FROM refresh_tokens WHERE refresh_tokens.family = revoked_families.family)"
);

row! {
    struct Row {
        id: String,
        family: String,
        user_id: i64,
        expires_at: i64,
        spent_at: Option<i64>,
        successor: Option<String>,
        spent_by: Option<String>,
    }
}

impl Row {
    fn token(self) -> RefreshToken {
        RefreshToken { id: self.id, family: self.family, user: UserId(self.user_id), expires_at: from_millis(self.expires_at) }
    }
}

row! {
    struct SessionRow {
        family: String,
        started_at: Option<i64>,
        issued_at: Option<i64>,
        expires_at: i64,
        address: Option<String>,
        user_agent: Option<String>,
    }
}

impl From<SessionRow> for AccountSession {
    fn from(row: SessionRow) -> Self {
        Self {
            family: row.family,
            started_at: row.started_at.map(from_millis),
            used_at: row.issued_at.map(from_millis),
            expires_at: from_millis(row.expires_at),
            address: row.address,
            user_agent: row.user_agent,
        }
    }
}

impl From<&RefreshClaims> for RefreshToken {
    fn from(claims: &RefreshClaims) -> Self {
        let RefreshClaims { id, family, user, expires_at, .. } = claims.clone();
        Self { id, family, user, expires_at }
    }
}
