//! The table `users`.

mod lists;

use std::{collections::HashMap, sync::LazyLock};

use futures_util::TryFutureExt;
use motience_auth::canonical_username;
use motience_proto::model::{Account, LogId, LogKey, ProducerId, Role, User, UserId, Visibility};
use sqlx::AssertSqlSafe;
use time::{OffsetDateTime, PrimitiveDateTime};

use motience_runtime::clock::{from_millis, millis};

use super::{Engine, Error, Store, from_column, is_storable, limited, on, row::row};

pub use self::lists::AccountQuery;

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
    /// The role of the account.
    pub role: Role,
    /// The device it is for, if any.
    pub device_id: Option<String>,
    /// Whether a producer may speak for that device only.
    pub strict_device: bool,
}

/// An account with what its password is checked against. Has no `Debug`, so that no hash is ever logged.
#[derive(Clone)]
pub struct Credentials {
    /// The account.
    pub user: User,
    /// The password's hash, of argon2id or, in an imported row, bcrypt.
    pub password_hash: String,
    /// When the account was closed.
    pub revoked_at: Option<OffsetDateTime>,
    /// When its owner, or a reset, changed the password last.
    pub password_changed_at: Option<OffsetDateTime>,
}

/// An account that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The account.
    pub user: User,
    /// Whether the database would have given out a number for the second time: it has been restored from a backup.
    pub restored: bool,
}

/// Log ids begin here: below lie those that bear an account's number.
const FIRST_LOG: u64 = 1 << 32;
/// Log ids end here, so that every client's JSON can hold one.
const LOGS_END: u64 = 1 << 53;

impl Store {
    /// Makes an account. Its name is canonical, so that no other new account has one that differs only in how it is written; an account
    /// from before names were may.
    pub async fn create_user(&self, new: NewUser) -> Result<User, Error> {
        Ok(self.create_user_above(UserId(0), new).await?.user)
    }

    /// Makes an account where every number up to `given` was given out already, though the database may have forgotten it.
    ///
    /// Nothing that another account of this number has left behind is the new one's: its subscriptions end, its cursors go, and what is
    /// kept by log id (records, their history, others' cursors) is that of another log.
    pub async fn create_user_above(&self, given: UserId, new: NewUser) -> Result<Made, Error> {
        check_text("username", &new.username)?;
        check_text("password_hash", &new.password_hash)?;
        new.device_id.as_deref().map_or(Ok(()), |id| check_text("device_id", id))?;
        let alike = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(ALIKE).bind(&new.username).fetch_optional(db))?;
        if alike.is_some() {
            return Err(Error::UsernameTaken);
        }
        match self.insert(&new, None).await? {
            made if made.id <= given && is_storable(given.0) => {
                self.raise_ids(made.id, given).await?;
                Ok(Made { user: self.insert(&new, Some(given)).await?, restored: true })
            }
            user => Ok(Made { user, restored: false }),
        }
    }

    /// Makes an account with a number above `given`, where the database has been found to have forgotten that it gave that one out.
    async fn insert(&self, new: &NewUser, given: Option<UserId>) -> Result<User, Error> {
        let log = fastrand::u64(FIRST_LOG..LOGS_END).cast_signed();
        macro_rules! insert {
            ($transaction:expr, $statement:expr $(, $number:expr)?) => {{
                let mut transaction = $transaction;
                let row = sqlx::query_as::<_, Row>($statement)
                    .persistent(false)
                    .bind(&new.username)
                    .bind(&new.password_hash)
                    .bind(new.role.as_str())
                    .bind(&new.device_id)
                    .bind(new.strict_device)
                    .bind(log)
                    $(.bind($number))?
                    .fetch_one(&mut *transaction)
                    .await?;
                for statement in LEFT_BEHIND {
                    sqlx::query(statement).persistent(false).bind(row.id).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                row
            }};
        }
        let made = limited(async {
            Ok(match &*self.0 {
                Engine::Sqlite(pools) => {
                    insert!(pools.writer.begin_with("BEGIN IMMEDIATE").await?, INSERT_SQLITE, given.map(|given| given.0))
                }
                // Its sequence has been raised.
                Engine::Postgres(pools) => insert!(pools.writer.begin().await?, INSERT_POSTGRES),
            })
        })
        .await;
        match made {
            Ok(row) => row.user().ok_or(Error::Other(sqlx::Error::RowNotFound)),
            Err(Error::Other(sqlx::Error::Database(e))) if e.is_unique_violation() => Err(Error::UsernameTaken),
            Err(e) => Err(e),
        }
    }

    /// Takes an account back that nobody was told of, and has PostgreSQL number the next one above `given`.
    async fn raise_ids(&self, made: UserId, given: UserId) -> Result<(), Error> {
        limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => {
                    sqlx::query(TAKE_BACK).bind(made.0).execute(&pools.writer).await?;
                }
                Engine::Postgres(pools) => {
                    let mut transaction = pools.writer.begin().await?;
                    // Whoever inserts holds a lock that this one excludes, so no number is drawn meanwhile.
                    sqlx::query("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE").persistent(false).execute(&mut *transaction).await?;
                    sqlx::query(TAKE_BACK).persistent(false).bind(made.0).execute(&mut *transaction).await?;
                    sqlx::query(RAISE_POSTGRES).persistent(false).bind(given.0).execute(&mut *transaction).await?;
                    transaction.commit().await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The highest number of an account; 0 where there is none.
    pub async fn newest_user(&self) -> Result<UserId, Error> {
        let id = on!(self, reader, |db| sqlx::query_scalar::<_, Option<i64>>(NEWEST).fetch_one(db))?;
        Ok(UserId(id.unwrap_or(0)))
    }

    /// The log of an account.
    pub async fn log_id(&self, user: UserId) -> Result<Option<LogId>, Error> {
        let log = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(LOG_ID).bind(user.0).fetch_optional(db))?;
        Ok(log.map(|log| LogId(log.cast_unsigned())))
    }

    /// The logs of those among `users` that there are.
    pub async fn log_ids(&self, users: &[UserId]) -> Result<Vec<(UserId, LogId)>, Error> {
        let ids: Vec<i64> = users.iter().map(|user| user.0).collect();
        let rows: Vec<(i64, i64)> = limited(async {
            Ok(match &*self.0 {
                Engine::Sqlite(pools) => {
                    let json = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                    sqlx::query_as(LOG_IDS_SQLITE).bind(format!("[{json}]")).fetch_all(&pools.reader).await?
                }
                Engine::Postgres(pools) => sqlx::query_as(LOG_IDS_POSTGRES).bind(ids).fetch_all(&pools.reader).await?,
            })
        })
        .await?;
        Ok(rows.into_iter().map(|(id, log)| (UserId(id), LogId(log.cast_unsigned()))).collect())
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
        Ok(row.and_then(|Secret { row, password_hash, revoked_at, password_changed_at }| {
            let (revoked_at, password_changed_at) = (revoked_at.map(from_millis), password_changed_at.map(from_millis));
            Some(Credentials { user: row.user()?, password_hash, revoked_at, password_changed_at })
        }))
    }

    /// The account with this id, closed or not.
    pub async fn account(&self, id: UserId) -> Result<Option<Account>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, AccountRow>(ACCOUNT).bind(id.0).fetch_optional(db))?;
        Ok(row.and_then(AccountRow::account))
    }

    /// Closes an account: nobody can log in any more, and all its logins are ended. Gives the account and the families that were
    /// alive, for the nodes to be told; `None`: there is no such account. Closing it again ends what is left.
    pub async fn close_account(&self, id: UserId, now: OffsetDateTime) -> Result<Option<(Account, Vec<String>)>, Error> {
        // In this order: a running login looks again after it has stored its token, so it is seen by one of the two.
        on!(self, writer, |db| sqlx::query(CLOSE).bind(id.0).bind(millis(now)).execute(db).map_ok(drop))?;
        let mut families = self.revoke_user(id, None, now).await?;
        families.extend(self.revoke_keys(id).await?);
        Ok(self.account(id).await?.map(|account| (account, families)))
    }

    /// Opens a closed account for new logins, unless it is being erased. Families that were ended stay ended, and keys are gone.
    pub async fn reopen_account(&self, id: UserId, now: OffsetDateTime) -> Result<Option<Account>, Error> {
        // Again, in case closing it was broken off between its two steps.
        if self.account(id).await?.is_some_and(|account| account.revoked_at.is_some()) {
            self.revoke_user(id, None, now).await?;
            self.revoke_keys(id).await?;
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

    /// Sets a new password, and forgets every token that would set another. A login that has checked the old one meanwhile sees the change.
    pub async fn change_password(&self, id: UserId, hash: &str, now: OffsetDateTime) -> Result<(), Error> {
        check_text("password_hash", hash)?;
        on!(self, writer, |db| sqlx::query(CHANGE_PASSWORD).bind(id.0).bind(hash).bind(millis(now)).execute(db).map_ok(drop))?;
        on!(self, writer, |db| sqlx::query(FORGET_RESETS).bind(id.0).execute(db).map_ok(drop))
    }

    /// Remembers a token that sets a new password, by its hash.
    pub async fn add_reset(&self, hash: &str, user: UserId, expires_at: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(ADD_RESET).bind(hash).bind(user.0).bind(millis(expires_at)).execute(db).map_ok(drop))
    }

    /// The account whose password a token sets; the token is not used up by this.
    pub async fn reset_of(&self, hash: &str, now: OffsetDateTime) -> Result<Option<UserId>, Error> {
        let user = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(FIND_RESET).bind(hash).bind(millis(now)).fetch_optional(db))?;
        Ok(user.map(UserId))
    }

    /// Uses a token up: of any number of calls with it, one is told `true`.
    pub async fn take_reset(&self, hash: &str, now: OffsetDateTime) -> Result<bool, Error> {
        let taken =
            on!(self, writer, |db| sqlx::query(TAKE_RESET).bind(hash).bind(millis(now)).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(taken > 0)
    }

    /// Forgets tokens that have expired.
    pub async fn purge_resets(&self, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(PURGE_RESETS).bind(millis(now)).execute(db).map_ok(drop))
    }

    /// Replaces a password hash; nothing happens where there is no such account.
    pub async fn set_password_hash(&self, id: UserId, hash: &str) -> Result<(), Error> {
        check_text("password_hash", hash)?;
        on!(self, writer, |db| sqlx::query(SET_HASH).bind(id.0).bind(hash).execute(db).map_ok(drop))
    }

    /// Sets who may see a producer; `None`: as the operator's default has it. `false`: there is no such producer.
    pub async fn set_visibility(&self, producer: ProducerId, visibility: Option<Visibility>) -> Result<bool, Error> {
        let visibility = visibility.map(Visibility::as_str);
        let done = on!(self, writer, |db| sqlx::query(SET_VISIBILITY)
            .bind(producer.0)
            .bind(visibility)
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }
}

macro_rules! columns {
    () => {
        "CAST(id AS BIGINT) AS id, username, role, device_id, strict_device, visibility, created_at, log_id"
    };
}
use columns;

/// The log of the account with the number `$id` by what is in the database now; without such an account the log that bears the number.
macro_rules! present_log {
    ($id:literal) => {
        concat!("COALESCE((SELECT COALESCE(users.log_id, users.id) FROM users WHERE users.id = ", $id, "), ", $id, ")")
    };
}
pub(super) use present_log;

const INSERT_POSTGRES: &str = concat!(
    "INSERT INTO users (username, password_hash, role, device_id, strict_device, log_id) VALUES ($1, $2, $3, $4, $5, $6) RETURNING ",
    columns!()
);
// Without a $7 the number is NULL, for which SQLite takes its next one. That is not always above $7: an imported table has no AUTOINCREMENT.
const INSERT_SQLITE: &str = concat!(
    "INSERT INTO users (id, username, password_hash, role, device_id, strict_device, log_id) \
     VALUES ((SELECT MAX($7, COALESCE(MAX(id), 0)) + 1 FROM users), $1, $2, $3, $4, $5, $6) RETURNING ",
    columns!()
);
const LEFT_BEHIND: [&str; 4] = [
    "UPDATE subscriptions SET status = 'inactive', requested_at = NULL, decided_at = NULL, decided_by = NULL, expires_at = NULL, \
     scope = NULL WHERE consumer_id = $1 OR producer_id = $1",
    "DELETE FROM cursors WHERE consumer_id = $1",
    "DELETE FROM api_keys WHERE user_id = $1",
    "DELETE FROM external_identities WHERE user_id = $1",
];
pub(super) const TAKE_BACK: &str = "DELETE FROM users WHERE id = $1";
const RAISE_POSTGRES: &str =
    "SELECT setval(pg_get_serial_sequence('users', 'id'), GREATEST($1, nextval(pg_get_serial_sequence('users', 'id'))))";
const NEWEST: &str = "SELECT CAST(MAX(id) AS BIGINT) FROM users";
const LOG_ID: &str = "SELECT CAST(COALESCE(log_id, id) AS BIGINT) FROM users WHERE id = $1";
const LOG_IDS_POSTGRES: &str = "SELECT CAST(id AS BIGINT), CAST(COALESCE(log_id, id) AS BIGINT) FROM users WHERE id = ANY($1)";
const LOG_IDS_SQLITE: &str = "SELECT id, COALESCE(log_id, id) FROM users WHERE id IN (SELECT value FROM json_each($1))";
const ALIKE: &str = "SELECT CAST(id AS BIGINT) FROM users WHERE LOWER(username) = $1 LIMIT 1";
const BY_ID: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1");
static BY_IDS: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=AT_ONCE).map(|n| format!("${n}")).collect();
    format!("SELECT {} FROM users WHERE users.id IN ({})", columns!(), places.join(", "))
});
const BY_NAME: &str = concat!("SELECT password_hash, revoked_at, password_changed_at, ", columns!(), " FROM users WHERE username = $1");
const CHANGE_PASSWORD: &str = "UPDATE users SET password_hash = $2, password_changed_at = $3 WHERE id = $1";
const FORGET_RESETS: &str = "DELETE FROM password_resets WHERE user_id = $1";
const ADD_RESET: &str = "INSERT INTO password_resets (hash, user_id, expires_at) VALUES ($1, $2, $3)";
const FIND_RESET: &str = "SELECT CAST(user_id AS BIGINT) FROM password_resets WHERE hash = $1 AND expires_at > $2";
const TAKE_RESET: &str = "DELETE FROM password_resets WHERE hash = $1 AND expires_at > $2";
const PURGE_RESETS: &str = "DELETE FROM password_resets WHERE expires_at <= $1";
const SET_HASH: &str = "UPDATE users SET password_hash = $2 WHERE id = $1";
const SET_VISIBILITY: &str = "UPDATE users SET visibility = $2 WHERE id = $1 AND role = 'producer'";
const ACCOUNT: &str = concat!("SELECT revoked_at, ", columns!(), " FROM users WHERE id = $1");
const CLOSE: &str = "UPDATE users SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL";
const REOPEN: &str = "UPDATE users SET revoked_at = NULL WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM erasures WHERE user_id = $1)";
const CLOSED: &str = "SELECT CAST(id AS BIGINT) AS id, revoked_at FROM users WHERE revoked_at >= $1";

row! {
    struct Row {
        id: i64,
        username: String,
        role: String,
        device_id: Option<String>,
        strict_device: Option<bool>,
        visibility: Option<String>,
        created_at: Option<PrimitiveDateTime>,
        /// None in a row that a program without log ids has made.
        log_id: Option<i64>,
    }
}

row! {
    struct Secret {
        ..row: Row,
        password_hash: String,
        revoked_at: Option<i64>,
        password_changed_at: Option<i64>,
    }
}

row! {
    struct AccountRow {
        ..row: Row,
        revoked_at: Option<i64>,
    }
}

impl AccountRow {
    fn account(self) -> Option<Account> {
        Some(Account { user: self.row.user()?, revoked_at: self.revoked_at.map(from_millis) })
    }
}

impl Row {
    /// An imported row may have a role that this platform does not know; nobody can act in it, so it is no account.
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
            // A word of a newer version hides more than this one knows.
            visibility: self.visibility.map(|visibility| visibility.parse().unwrap_or(Visibility::Private)),
            created_at: from_column(self.created_at),
            log: self.log_id.map_or(LogKey::numbered(UserId(self.id).producer()).log, |log| LogId(log.cast_unsigned())),
        })
    }
}

/// PostgreSQL holds no zero byte in a text; SQLite would take any length.
fn check_text(field: &'static str, text: &str) -> Result<(), Error> {
    if text.contains('\0') || text.chars().count() > MAX_NAME { Err(Error::Unstorable(field)) } else { Ok(()) }
}
