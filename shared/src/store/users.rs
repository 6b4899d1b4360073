//! The table `users`.

use futures_util::TryFutureExt;
use sqlx::FromRow;
use time::PrimitiveDateTime;

use super::{Error, Page, Store, from_column, on};
use crate::model::{Role, User, UserId};

/// Longest username and device id, in characters: the width of their columns.
const MAX_NAME: usize = 255;

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
}

impl Store {
    /// Makes an account.
    pub async fn create_user(&self, new: NewUser) -> Result<User, Error> {
        check_text("username", &new.username)?;
        check_text("password_hash", &new.password_hash)?;
        new.device_id.as_deref().map_or(Ok(()), |id| check_text("device_id", id))?;
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

    /// The account with this name, and its password hash.
    pub async fn credentials(&self, username: &str) -> Result<Option<Credentials>, Error> {
        if check_text("username", username).is_err() {
            return Ok(None);
        }
        let row = on!(self, reader, |db| sqlx::query_as::<_, Secret>(BY_NAME).bind(username).fetch_optional(db))?;
        Ok(row.and_then(|Secret { row, password_hash }| Some(Credentials { user: row.user()?, password_hash })))
    }

    /// Replaces a password hash; nothing happens where there is no such account.
    pub async fn set_password_hash(&self, id: UserId, hash: &str) -> Result<(), Error> {
        check_text("password_hash", hash)?;
        on!(self, writer, |db| sqlx::query(SET_HASH).bind(id.0).bind(hash).execute(db).map_ok(drop))
    }

    /// The accounts of one role.
    pub async fn users(&self, role: Role, page: Page) -> Result<Vec<User>, Error> {
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(role.as_str()).bind(page.after).bind(page.limit()).fetch_all(db))?;
        Ok(rows.into_iter().filter_map(Row::user).collect())
    }
}

macro_rules! columns {
    () => {
        "CAST(id AS BIGINT) AS id, username, role, device_id, created_at"
    };
}

const INSERT: &str = concat!("INSERT INTO users (username, password_hash, role, device_id) VALUES ($1, $2, $3, $4) RETURNING ", columns!());
const BY_ID: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1");
const BY_NAME: &str = concat!("SELECT password_hash, ", columns!(), " FROM users WHERE username = $1");
const SET_HASH: &str = "UPDATE users SET password_hash = $2 WHERE id = $1";
// `users.id`, because a plain `id` would mean the converted column, which no index is in order of.
const LIST: &str = concat!("SELECT ", columns!(), " FROM users WHERE role = $1 AND id > $2 ORDER BY users.id LIMIT $3");

#[derive(FromRow)]
struct Row {
    id: i64,
    username: String,
    role: String,
    device_id: Option<String>,
    created_at: Option<PrimitiveDateTime>,
}

#[derive(FromRow)]
struct Secret {
    #[sqlx(flatten)]
    row: Row,
    password_hash: String,
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
            created_at: from_column(self.created_at),
        })
    }
}

/// PostgreSQL holds no zero byte in a text; SQLite would take any length.
fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') || text.chars().count() > MAX_NAME { Err(Error::Unstorable(field)) } else { Ok(()) }
}
