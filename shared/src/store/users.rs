//! The table `users`.

use std::{collections::HashMap, sync::LazyLock};

use futures_util::TryFutureExt;
use sqlx::{AssertSqlSafe, FromRow};
use time::{OffsetDateTime, PrimitiveDateTime};

use super::{Error, Page, Store, from_column, from_millis, millis, on};
use crate::{
    auth::{canonical_username, folded},
    model::{Account, Role, User, UserId},
};

/// Longest username and device id, in characters: the width of their columns.
const MAX_NAME: usize = 255;
/// Accounts asked for in one statement.
const AT_ONCE: usize = 256;

/// An account to be made.
#[derive(Clone)]
pub struct NewUser {
    /// Unique name.
    pub username: String,
    /// The password's hash, never the password.
    pub password_hash: String,
    /// What the account may do.
    pub role: Role,
    /// The device it is for, if any.
    pub device_id: Option<String>,
}

/// An account with what its password is checked against. Has no `Debug`, so that no hash is ever logged.
#[derive(Clone)]
pub struct Credentials {
    /// The account.
    pub user: User,
    /// The password's hash, of argon2id or, in an adopted row, bcrypt.
    pub password_hash: String,
    /// When the account was closed.
    pub revoked_at: Option<OffsetDateTime>,
}

/// Which accounts are wanted.
#[derive(Clone, Debug, Default)]
pub struct AccountQuery {
    /// Of this role only.
    pub role: Option<Role>,
    /// With this in their names, in whichever case; empty: any.
    pub name: String,
    /// Which part of the list.
    pub page: Page,
}

impl Store {
    /// Makes an account. Its name is canonical, so that no other new account has one that differs only in how it is written; an account
    /// from before names were may.
    pub async fn create_user(&self, new: NewUser) -> Result<User, Error> {
        check_text("username", &new.username)?;
        check_text("password_hash", &new.password_hash)?;
        new.device_id.as_deref().map_or(Ok(()), |id| check_text("device_id", id))?;
        let alike = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(ALIKE).bind(&new.username).fetch_optional(db))?;
        if alike.is_some() {
            return Err(Error::UsernameTaken);
        }
        let made = on!(self, writer, |db| sqlx::query_as::<_, Row>(INSERT)
            .bind(&new.username)
            .bind(&new.password_hash)
            .bind(new.role.as_str())
            .bind(&new.device_id)
            .fetch_one(db));
        match made {
            Ok(row) => row.user().ok_or(Error::Other(sqlx::Error::RowNotFound)),
            Err(Error::Other(sqlx::Error::Database(e))) if e.is_unique_violation() => Err(Error::UsernameTaken),
            Err(e) => Err(e),
        }
    }

    /// The account with this id.
    pub async fn user(&self, id: UserId) -> Result<Option<User>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BY_ID).bind(id.0).fetch_optional(db))?;
        Ok(row.and_then(Row::user))
    }

    /// The accounts with these ids, in one statement for many.
    pub async fn users_by_id(&self, ids: &[UserId]) -> Result<HashMap<UserId, User>, Error> {
        let mut users = HashMap::new();
        for some in ids.chunks(AT_ONCE) {
            // Always as many, so that there is one statement to prepare; an id that is asked for twice changes nothing.
            let asked = (0..AT_ONCE).map(|n| some[n.min(some.len() - 1)].0);
            let rows = on!(self, reader, |db| asked
                .fold(sqlx::query_as::<_, Row>(AssertSqlSafe(BY_IDS.as_str())), sqlx::query::QueryAs::bind)
                .fetch_all(db))?;
            users.extend(rows.into_iter().filter_map(Row::user).map(|user| (user.id, user)));
        }
        Ok(users)
    }

    /// The account that someone means by this name, and its password hash: the one that is written exactly so, or else the one whose
    /// canonical name it is.
    pub async fn credentials_meant(&self, username: &str) -> Result<Option<Credentials>, Error> {
        if let Some(exactly) = self.credentials(username).await? {
            return Ok(Some(exactly));
        }
        match canonical_username(username) {
            Ok(canonical) if canonical != username => self.credentials(&canonical).await,
            _ => Ok(None),
        }
    }

    /// The account that is called exactly so, and its password hash.
    pub async fn credentials(&self, username: &str) -> Result<Option<Credentials>, Error> {
        if check_text("username", username).is_err() {
            return Ok(None);
        }
        let row = on!(self, reader, |db| sqlx::query_as::<_, Secret>(BY_NAME).bind(username).fetch_optional(db))?;
        Ok(row.and_then(|Secret { row, password_hash, revoked_at }| {
            Some(Credentials { user: row.user()?, password_hash, revoked_at: revoked_at.map(from_millis) })
        }))
    }

    /// The account with this id, closed or not.
    pub async fn account(&self, id: UserId) -> Result<Option<Account>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, AccountRow>(ACCOUNT).bind(id.0).fetch_optional(db))?;
        Ok(row.and_then(AccountRow::account))
    }

    /// The accounts that a query names, by id, the closed ones too.
    pub async fn accounts(&self, query: &AccountQuery) -> Result<Vec<Account>, Error> {
        if query.name.contains('\0') {
            return Ok(Vec::new());
        }
        let (role, page) = (query.role.map_or("", Role::as_str), query.page);
        let pattern = |name: &str| if name.is_empty() { String::new() } else { format!("%{}%", escaped(name)) };
        // As it was written, for accounts from before names were canonical, and as new accounts have it.
        let (name, canonical) = (pattern(&query.name), pattern(&folded(&query.name)));
        let rows = on!(self, reader, |db| sqlx::query_as::<_, AccountRow>(ACCOUNTS)
            .bind(page.after)
            .bind(role)
            .bind(&name)
            .bind(page.limit())
            .bind(&canonical)
            .fetch_all(db))?;
        Ok(rows.into_iter().filter_map(AccountRow::account).collect())
    }

    /// Closes an account: nobody can log in any more, and all its logins are ended. Gives the account and the families that were
    /// alive, for the nodes to be told; `None`: there is no such account. Closing it again ends what is left.
    pub async fn close_account(&self, id: UserId, now: OffsetDateTime) -> Result<Option<(Account, Vec<String>)>, Error> {
        // In this order: a login that is under way looks again after it has left its token, so it is seen by one of the two.
        on!(self, writer, |db| sqlx::query(CLOSE).bind(id.0).bind(millis(now)).execute(db).map_ok(drop))?;
        let families = self.revoke_user(id, now).await?;
        Ok(self.account(id).await?.map(|account| (account, families)))
    }

    /// Opens a closed account for new logins. What was ended stays ended.
    pub async fn reopen_account(&self, id: UserId, now: OffsetDateTime) -> Result<Option<Account>, Error> {
        // Again, in case closing it was broken off between its two steps.
        if self.account(id).await?.is_some_and(|account| account.revoked_at.is_some()) {
            self.revoke_user(id, now).await?;
            on!(self, writer, |db| sqlx::query(REOPEN).bind(id.0).execute(db).map_ok(drop))?;
        }
        self.account(id).await
    }

    /// The accounts closed at or after `since`, and when. With `since` one access token's life ago, these are all that may still
    /// have live tokens.
    pub async fn closed_accounts(&self, since: OffsetDateTime) -> Result<Vec<(UserId, OffsetDateTime)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64)>(CLOSED).bind(millis(since)).fetch_all(db))?;
        Ok(rows.into_iter().map(|(id, at)| (UserId(id), from_millis(at))).collect())
    }

    /// Replaces a password hash; nothing happens where there is no such account.
    pub async fn set_password_hash(&self, id: UserId, hash: &str) -> Result<(), Error> {
        check_text("password_hash", hash)?;
        on!(self, writer, |db| sqlx::query(SET_HASH).bind(id.0).bind(hash).execute(db).map_ok(drop))
    }

    /// Says whether a producer may speak for the device it was registered with only. Its tokens say so from the next one on.
    pub async fn set_strict_device(&self, id: UserId, strict: bool) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(SET_STRICT).bind(id.0).bind(strict).execute(db).map_ok(drop))
    }

    /// The accounts of one role, without those that are closed.
    pub async fn users(&self, role: Role, page: Page) -> Result<Vec<User>, Error> {
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(role.as_str()).bind(page.after).bind(page.limit()).fetch_all(db))?;
        Ok(rows.into_iter().filter_map(Row::user).collect())
    }
}

macro_rules! columns {
    () => {
        "CAST(id AS BIGINT) AS id, username, role, device_id, strict_device, created_at"
    };
}

const INSERT: &str = concat!("INSERT INTO users (username, password_hash, role, device_id) VALUES ($1, $2, $3, $4) RETURNING ", columns!());
const ALIKE: &str = "SELECT CAST(id AS BIGINT) FROM users WHERE LOWER(username) = $1 LIMIT 1";
const BY_ID: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1");
static BY_IDS: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=AT_ONCE).map(|n| format!("${n}")).collect();
    format!("SELECT {} FROM users WHERE users.id IN ({})", columns!(), places.join(", "))
});
const BY_NAME: &str = concat!("SELECT password_hash, revoked_at, ", columns!(), " FROM users WHERE username = $1");
const SET_HASH: &str = "UPDATE users SET password_hash = $2 WHERE id = $1";
const SET_STRICT: &str = "UPDATE users SET strict_device = $2 WHERE id = $1";
// `users.id`, because a plain `id` would mean the converted column, which no index is in order of.
const LIST: &str =
    concat!("SELECT ", columns!(), " FROM users WHERE role = $1 AND id > $2 AND revoked_at IS NULL ORDER BY users.id LIMIT $3");
const ACCOUNT: &str = concat!("SELECT revoked_at, ", columns!(), " FROM users WHERE id = $1");
// Case is the database's own to judge: SQLite knows that of A to Z. Roles that nobody can act in are passed over here, so that a page is full.
const ACCOUNTS: &str = concat!(
    "SELECT revoked_at, ",
    columns!(),
    " FROM users WHERE id > $1 AND role IN ('producer', 'consumer', 'admin') AND ($2 = '' OR role = $2) \
     AND ($3 = '' OR LOWER(username) LIKE LOWER($3) ESCAPE '!' OR username LIKE $5 ESCAPE '!') ORDER BY users.id LIMIT $4"
);
const CLOSE: &str = "UPDATE users SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
const REOPEN: &str = "UPDATE users SET revoked_at = NULL WHERE id = $1";
const CLOSED: &str = "SELECT CAST(id AS BIGINT) AS id, revoked_at FROM users WHERE revoked_at >= $1";

#[derive(FromRow)]
struct Row {
    id: i64,
    username: String,
    role: String,
    device_id: Option<String>,
    strict_device: Option<bool>,
    created_at: Option<PrimitiveDateTime>,
}

#[derive(FromRow)]
struct Secret {
    #[sqlx(flatten)]
    row: Row,
    password_hash: String,
    revoked_at: Option<i64>,
}

#[derive(FromRow)]
struct AccountRow {
    #[sqlx(flatten)]
    row: Row,
    revoked_at: Option<i64>,
}

impl AccountRow {
    fn account(self) -> Option<Account> {
        Some(Account { user: self.row.user()?, revoked_at: self.revoked_at.map(from_millis) })
    }
}

impl Row {
    /// An adopted row may have a role that this platform does not know; nobody can act in it, so it is no account.
    fn user(self) -> Option<User> {
        let Ok(role) = self.role.parse() else {
            tracing::warn!(user = self.id, "an account has an unknown role and is passed over");
            return None;
        };
        Some(User {
            id: UserId(self.id),
            username: self.username,
            role,
            device_id: self.device_id,
            strict_device: self.strict_device.unwrap_or_default(),
            created_at: from_column(self.created_at),
        })
    }
}

/// The text with nothing in it that LIKE takes for more than itself.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| matches!(c, '!' | '%' | '_').then_some('!').into_iter().chain([c])).collect()
}

/// PostgreSQL holds no zero byte in a text; SQLite would take any length.
fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') || text.chars().count() > MAX_NAME { Err(Error::Unstorable(field)) } else { Ok(()) }
}
