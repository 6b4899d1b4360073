//! Errors of the store, sorted by what the caller can do about them.

use motience_proto::model::Status;
use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

use super::{MAX_KEYS, MAX_NAMES, MAX_OPEN_ERASURES};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another account has this name.
    #[error("the username is taken")]
    UsernameTaken,
    /// A value that the table cannot hold: too long, out of range, or with a zero byte.
    #[error("{0} cannot be stored")]
    Unstorable(&'static str),
    /// The consumer has as many named cursors as it may.
    #[error("a consumer has at most {MAX_NAMES} named cursors")]
    TooManyNames,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    NoSubscription,
    /// The subscription is in a state from which this does not lead on.
    #[error("the subscription is {0}")]
    WrongState(Status),
    /// The producer has decided against this consumer.
    #[error("the producer has decided against it: the subscription is {0}")]
    Refused(Status),
    /// The producer is private, and has not invited this consumer.
    #[error("the producer has not invited this consumer")]
    NotInvited,
    /// The account has as many keys as it may.
    #[error("an account has at most {MAX_KEYS} keys")]
    TooManyKeys,
    /// The producer has as many devices as it may.
    #[error("this producer has as many devices as it may (MAX_REGISTERED_DEVICES_PER_ACCOUNT)")]
    TooManyDevices,
    /// As many erasures of the producer's records as it may have are not done yet.
    #[error("a producer has at most {MAX_OPEN_ERASURES} erasures of records that are not done; an erasure is done within two minutes")]
    TooManyErasures,
    /// The database is away or overloaded; the same call may succeed later.
    #[error("the database is unavailable: {}", words(.0))]
    Unavailable(sqlx::Error),
    /// No answer within the time limit. A write may or may not have happened.
    #[error("the database did not answer in time")]
    TimedOut,
    /// A database that takes writes, where a replica is to be.
    #[error("it takes writes, so it is no replica")]
    NoReplica,
    /// A replica of another database than the one that it is to be of.
    #[error("it is a replica of another database than DATABASE_URL")]
    OtherDatabase,
    /// The database folder or file cannot be made.
    #[error("the database file cannot be opened")]
    File(#[source] std::io::Error),
    /// The tables could not be brought up to date.
    #[error("the database could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A newer release has removed from the tables what this program uses.
    #[error(
        "a newer release of Motience has changed it, and programs that do not know its step {needs} cannot work with it any more; this one knows \
         the steps up to {known}: upgrade it"
    )]
    Newer {
        /// The lowest step that a program must know.
        needs: i64,
        /// The newest step that this program knows.
        known: i64,
    },
    /// Anything else: a fault of the program or of the data in the database.
    #[error("the database refused: {}", words(.0))]
    Other(sqlx::Error),
}

impl Error {
    /// Whether the same call may succeed later without any change.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut)
    }

    /// Whether the database refused a value itself (too deep, too large a number), not the operation.
    pub(super) fn is_bad_value(&self) -> bool {
        // Class 22 is "data exception", 54 "program limit exceeded".
        matches!(self, Self::Other(sqlx::Error::Database(e)) if postgres_code(&**e).is_some_and(|c| c.starts_with("22") || c.starts_with("54")))
    }

    /// Whether a row is there already.
    pub(super) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Other(sqlx::Error::Database(e)) if postgres_code(&**e) == Some("23505"))
    }

    /// Whether a row does not meet a condition of its table.
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Other(sqlx::Error::Database(e)) if postgres_code(&**e) == Some("23514"))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let away = match &error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                true
            }
            sqlx::Error::Database(e) => may_pass(&**e),
            _ => false,
        };
        if away { Self::Unavailable(error) } else { Self::Other(error) }
    }
}

/// The error, for people. The library's words for an answer of the database end in a line of the database's own source code.
fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(answer) => answer.message().to_owned(),
        sqlx::Error::Io(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// Whether an answer of the database tells of its own state, not of the statement.
fn may_pass(error: &dyn DatabaseError) -> bool {
    match postgres_code(error) {
        // Connection, transaction rollback, resources, operator intervention (shutdown, cancelled by a time limit), and
        // "lock not available", "read-only transaction" (a node that just became a replica).
        Some(code) => matches!(code.get(..2), Some("08" | "40" | "53" | "57")) || matches!(code, "55P03" | "25006"),
        // SQLite: busy, locked, I/O error, full, cannot open. The low byte is the primary code.
        None => error.code().and_then(|c| c.parse::<u32>().ok()).is_some_and(|c| matches!(c & 0xff, 5 | 6 | 10 | 13 | 14)),
    }
}

fn postgres_code(error: &dyn DatabaseError) -> Option<&str> {
    error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
}
