//! The table `api_keys`: keys of programs, by the hash of each.

use std::collections::HashSet;

use motience_auth::{Scopes, key_family};
use motience_proto::model::{User, UserId};
use motience_runtime::clock::{from_millis, millis};
use time::OffsetDateTime;

use super::{Engine, Error, MAX_KEYS, Store, is_storable, limited, on, row::row};

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    /// The id, which is no secret.
    pub id: &'a str,
    /// The account that it acts for.
    pub user: UserId,
    /// The name that its owner gave it.
    pub name: &'a str,
    /// The key's hash, never the key.
    pub hash: &'a str,
    /// Its rights.
    pub scopes: &'a Scopes,
    /// When it is made.
    pub created_at: OffsetDateTime,
    /// When it ends; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key as its owner sees it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The id.
    pub id: String,
    /// The account that it acts for.
    pub user: UserId,
    /// The name that its owner gave it.
    pub name: String,
    /// Its rights.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends; `None`: never.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was used last, to a minute or so.
    pub last_used_at: Option<OffsetDateTime>,
}

impl Store {
    /// Makes a key; `None` where the account is closed or is no more.
    pub async fn add_key(&self, new: NewKey<'_>) -> Result<Option<Key>, Error> {
        if !is_storable(new.user.0) {
            return Err(Error::Unstorable("user_id"));
        }
        let count = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(COUNT).bind(new.user.0).fetch_one(db))?;
        if count >= MAX_KEYS {
            return Err(Error::TooManyKeys);
        }
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(ADD)
            .bind(new.id)
            .bind(new.user.0)
            .bind(new.name)
            .bind(new.hash)
            .bind(new.scopes.to_string())
            .bind(millis(new.created_at))
            .bind(new.expires_at.map(millis))
            .fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// The keys of an account, the newest first.
    pub async fn keys_of(&self, user: UserId) -> Result<Vec<Key>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(OF_USER).bind(user.0).fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// A part of all keys in order of id, after `after`.
    pub async fn keys_after(&self, after: &str, limit: u32) -> Result<Vec<Key>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(AFTER).bind(after).bind(i64::from(limit)).fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// The key with this hash and its account, which is open.
    pub async fn key_by_hash(&self, hash: &str) -> Result<Option<(Key, User)>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BY_HASH).bind(hash).fetch_optional(db))?;
        let Some(key) = row.map(Key::from) else { return Ok(None) };
        let account = self.account(key.user).await?.filter(|account| account.revoked_at.is_none());
        Ok(account.map(|account| (key, account.user)))
    }

    /// Ends a key of this account, or of whatever account: its row. `None` where there is none.
    pub async fn revoke_key(&self, id: &str, user: Option<UserId>) -> Result<Option<Key>, Error> {
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(REVOKE).bind(id).bind(user.map(|user| user.0)).fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// Ends all keys of an account, and names their families.
    pub(super) async fn revoke_keys(&self, user: UserId) -> Result<Vec<String>, Error> {
        let ids = on!(self, writer, |db| sqlx::query_scalar::<_, String>(REVOKE_ALL).bind(user.0).fetch_all(db))?;
        Ok(ids.iter().map(|id| key_family(id)).collect())
    }

    /// Those of these keys that there are.
    pub async fn present_keys(&self, ids: &[String]) -> Result<HashSet<String>, Error> {
        let found: Vec<String> = limited(async {
            Ok(match &*self.0 {
                Engine::Sqlite(pools) => sqlx::query_scalar(PRESENT_SQLITE).bind(json(ids)).fetch_all(&pools.reader).await?,
                Engine::Postgres(pools) => sqlx::query_scalar(PRESENT_POSTGRES).bind(ids).fetch_all(&pools.reader).await?,
            })
        })
        .await?;
        Ok(found.into_iter().collect())
    }

    /// Notes that these keys were used, in one write.
    pub async fn touch_keys(&self, ids: &[String], at: OffsetDateTime) -> Result<(), Error> {
        limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => {
                    sqlx::query(TOUCH_SQLITE).bind(millis(at)).bind(json(ids)).execute(&pools.writer).await?;
                }
                Engine::Postgres(pools) => {
                    sqlx::query(TOUCH_POSTGRES).bind(millis(at)).bind(ids).execute(&pools.writer).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Ids are hexadecimal digits, which JSON need not escape.
fn json(ids: &[String]) -> String {
    let quoted: Vec<String> = ids.iter().map(|id| format!("\"{id}\"")).collect();
    format!("[{}]", quoted.join(","))
}

macro_rules! columns {
    () => {
        "api_keys.id AS id, CAST(user_id AS BIGINT) AS user_id, name, scopes, api_keys.created_at AS created_at, expires_at, last_used_at"
    };
}

const COUNT: &str = "SELECT COUNT(*) FROM api_keys WHERE user_id = $1";
const ADD: &str = concat!(
    "INSERT INTO api_keys (id, user_id, name, hash, scopes, created_at, expires_at) \
     SELECT $1, users.id, $3, $4, $5, CAST($6 AS BIGINT), CAST($7 AS BIGINT) FROM users WHERE users.id = $2 AND users.revoked_at IS NULL \
     RETURNING ",
    columns!()
);
const OF_USER: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE user_id = $1 ORDER BY created_at DESC, api_keys.id");
const AFTER: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE api_keys.id > $1 ORDER BY api_keys.id LIMIT $2");
const BY_HASH: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE hash = $1");
const REVOKE: &str = concat!("DELETE FROM api_keys WHERE id = $1 AND (CAST($2 AS BIGINT) IS NULL OR user_id = $2) RETURNING ", columns!());
const REVOKE_ALL: &str = "DELETE FROM api_keys WHERE user_id = $1 RETURNING id";
const PRESENT_SQLITE: &str = "SELECT id FROM api_keys WHERE id IN (SELECT value FROM json_each($1))";
const PRESENT_POSTGRES: &str = "SELECT id FROM api_keys WHERE id = ANY($1)";
const TOUCH_SQLITE: &str = "UPDATE api_keys SET last_used_at = $1 WHERE id IN (SELECT value FROM json_each($2))";
const TOUCH_POSTGRES: &str = "UPDATE api_keys SET last_used_at = $1 WHERE id = ANY($2)";

row! {
    struct Row {
        id: String,
        user_id: i64,
        name: String,
        scopes: String,
        created_at: i64,
        expires_at: Option<i64>,
        last_used_at: Option<i64>,
    }
}

impl From<Row> for Key {
    fn from(row: Row) -> Self {
        // A scope of a newer version means nothing here, and makes the key's others mean nothing either: the safe side.
        let scopes = row.scopes.parse().unwrap_or_else(|_| Scopes::only([]));
        Self {
            id: row.id,
            user: UserId(row.user_id),
            name: row.name,
            scopes,
            created_at: from_millis(row.created_at),
            expires_at: row.expires_at.map(from_millis),
            last_used_at: row.last_used_at.map(from_millis),
        }
    }
}
