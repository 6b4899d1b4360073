//! The database: accounts, subscriptions, refresh tokens, acts, the cursors of consumers and the history of records.
//!
//! One interface, two engines: SQLite for an embedded node, PostgreSQL for a cluster. A statement that both understand is written
//! once and typed by sqlx for each (`on!`). One table a file, or a folder, with the statements of both engines; `engine` opens them.
//!
//! Invariants: every call ends within [`OPERATION_LIMIT`]; an id that the database's INTEGER cannot hold is simply not found; a caller that
//! learns of a write can read it back after a crash of the database.

mod accounts;
mod acts;
mod audit;
mod config;
mod cursors;
mod device_cas;
mod devices;
mod engine;
mod enrolments;
mod error;
mod external_identities;
mod history;
mod installation;
mod invitations;
mod keys;
mod leases;
mod log_ids;
mod login_addresses;
mod organisations;
mod personal;
mod plans;
mod record_erasures;
mod refresh;
mod replica;
mod retentions;
mod row;
mod subscriptions;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use motience_runtime::histogram;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::time::timeout;

use self::{
    engine::{
        postgres::{self, Connections},
        sqlite,
    },
    history::Highest,
    replica::Replica,
};

pub use self::{
    accounts::{AccountQuery, Credentials, Made, NewUser},
    acts::{Act, ActQuery, Attempts, MAX_OBJECT, NewAct, Outcome},
    audit::{AuditHead, AuditLine, BadLine, Chain, Verdict},
    config::{Config, Settings},
    cursors::{AfterCursor, NamedCursor},
    device_cas::StoredDeviceCa,
    devices::{Credential, Device, Labels, NewCredential, Restricted},
    enrolments::{Enrolment, EnrolmentToken},
    error::Error,
    external_identities::ExternalAccount,
    history::{Division, HistoryBatch, HistoryEntry, HistoryQuery, HistoryRow, Kept, Width, entry_bytes, kept_time},
    invitations::Invitation,
    keys::{Key, NewKey},
    log_ids::{Gone, LogIds},
    organisations::{Joins, Member, Organisation, OrganisationInvitation},
    personal::{PERSONAL_TABLES, PersonalRows, PersonalTable},
    plans::AssignedPlan,
    record_erasures::{Erased, RecordErasure},
    refresh::{AccountSession, Issued, RefreshToken, Spend, Spending},
    replica::ReplicaConfig,
    retentions::{ClassRetention, OwnRetention},
    subscriptions::{Change, Decision, Followers, Right, Terms, Wanted},
    usage::{GivenOut, TakenIn, UsageHour, UsageQuery},
};

/// Longest wait for one call, its waiting for a connection included.
pub const OPERATION_LIMIT: Duration = Duration::from_secs(15);

/// Longest wait for the first connection at start.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a connection out of the pool. Shorter than clients wait, so that they get "unavailable" in time.
pub const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for the migrations: an index over an imported database's tables takes its time.
pub const MIGRATE_LIMIT: Duration = Duration::from_secs(600);

/// Longest wait for the connections to end in [`Store::close`].
pub const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Most rows of one page, whatever is asked for.
pub const MAX_PAGE: u32 = 1000;

/// Most names of one consumer. Two nodes that take a new name each at the same moment may pass it by one.
pub const MAX_NAMES: i64 = 100;

/// Most keys of one account. Two that are made at the same moment may pass it by one.
pub const MAX_KEYS: i64 = 100;

/// Most erasures of one producer's records that are not done: each reads its log in each round. Two that begin at the same moment may pass it by
/// one.
pub const MAX_OPEN_ERASURES: i64 = 20;

/// The open database, the names of records that its history is known to have, and its replica. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Engine>, Arc<Highest>, Option<Arc<Replica>>);

/// A part of a list in order of id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last id already seen; 0 at the start.
    pub after: i64,
    /// Most rows wanted; more than [`MAX_PAGE`] count as that.
    pub limit: u32,
}

impl Page {
    /// Turns to the page after one of so many rows, the last of which had this id. `false`: there is none.
    pub fn turn(&mut self, rows: usize, last: Option<i64>) -> bool {
        self.after = last.unwrap_or(self.after);
        rows >= self.limit.clamp(1, MAX_PAGE) as usize
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { after: 0, limit: MAX_PAGE }
    }
}

impl Page {
    fn limit(self) -> i64 {
        i64::from(self.limit.min(MAX_PAGE))
    }

    /// The query of the part after `last`, as lists over HTTP are asked for.
    pub fn after(self, last: i64) -> String {
        format!("limit={}&after={last}", self.limit)
    }
}

impl Store {
    /// Connects and applies the migrations that are missing.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let engine = match config {
            Config::SqliteFile { path } => Engine::Sqlite(sqlite::open(path).await?),
            Config::SqliteMemory => Engine::Sqlite(sqlite::memory().await?),
            Config::Postgres { url, max_connections } => Engine::Postgres(Pools::one(Connections::open(url, *max_connections).await?)),
        };
        Ok(Self(Arc::new(engine), Arc::default(), None))
    }

    /// Whether the database could be opened; changes nothing in it, and applies no migrations.
    pub async fn probe(config: &Config) -> Result<(), Error> {
        match config {
            Config::SqliteFile { path } => sqlite::probe(path).await,
            Config::SqliteMemory => Ok(()),
            Config::Postgres { url, .. } => postgres::probe(url).await,
        }
    }

    /// Copies an SQLite database as it is now to the file `to`, where none may be, also while servers use it.
    pub async fn copy_file(path: &Path, to: &Path) -> Result<(), Error> {
        sqlite::copy(path, to).await
    }

    /// Whether this program can work with an SQLite database; changes nothing in it.
    pub async fn check_file(path: &Path) -> Result<(), Error> {
        sqlite::check(path).await
    }

    /// Asks the database for an answer; PostgreSQL for a write, since one that takes none answers all the same.
    pub async fn ping(&self) -> Result<(), Error> {
        match &*self.0 {
            Engine::Sqlite(_) => on!(self, reader, |db| sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(db)).map(drop),
            // A lease that nobody holds.
            Engine::Postgres(_) => self.lease("readiness", "", Duration::ZERO, OffsetDateTime::UNIX_EPOCH).await.map(drop),
        }
    }

    /// Measures how full the pool of connections is, and how long one of them that may write is waited for.
    pub async fn measure(&self) {
        let begun = Instant::now();
        let (waited, open, idle) = match &*self.0 {
            Engine::Sqlite(Pools { writer, reader }) => {
                (writer.acquire().await.is_ok(), writer.size() + reader.size(), writer.num_idle() + reader.num_idle())
            }
            Engine::Postgres(Pools { writer, .. }) => writer.measure().await,
        };
        if waited {
            histogram!("motience_database_wait_seconds").since(begun);
        }
        metrics::gauge!("motience_database_connections", "state" => "open").set(f64::from(open));
        metrics::gauge!("motience_database_connections", "state" => "idle").set(idle as f64);
    }

    /// Ends the connections; waits a little for running calls.
    pub async fn close(&self) {
        let closing = async {
            self.close_replica().await;
            match &*self.0 {
                // Readers first: the last connection of an SQLite file writes the journal back, and needs to be able to write.
                Engine::Sqlite(pools) => {
                    pools.reader.close().await;
                    pools.writer.close().await;
                }
                Engine::Postgres(pools) => pools.writer.close().await,
            }
        };
        if timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::warn!("the database connections did not end in time");
        }
    }
}

#[derive(Debug)]
enum Engine {
    Sqlite(Pools<sqlx::SqlitePool>),
    Postgres(Pools<Connections>),
}

/// Where statements go. SQLite has one writer, so that no write ever meets another's lock; for PostgreSQL both are the same pool.
#[derive(Debug)]
struct Pools<P> {
    writer: P,
    reader: P,
}

impl<P: Clone> Pools<P> {
    fn one(pool: P) -> Self {
        Self { writer: pool.clone(), reader: pool }
    }
}

/// Holds a call to [`OPERATION_LIMIT`].
fn limited<T>(work: impl Future<Output = Result<T, Error>>) -> impl Future<Output = Result<T, Error>> {
    // On the heap, for as long as it lasts: sqlx's futures are large, and each task that ever asks the database would have room for them.
    let work = Box::pin(work);
    async {
        let begun = Instant::now();
        let outcome = timeout(OPERATION_LIMIT, work).await.unwrap_or(Err(Error::TimedOut));
        histogram!("motience_database_seconds").since(begun);
        outcome
    }
}

/// Whether the database's INTEGER columns can hold `id`; SQLite could hold more, and is kept to the same.
fn is_storable(id: i64) -> bool {
    i32::try_from(id).is_ok()
}

/// The UTC time of a legacy column, which has neither a time zone nor NOT NULL.
fn from_column(at: Option<PrimitiveDateTime>) -> OffsetDateTime {
    at.map_or(OffsetDateTime::UNIX_EPOCH, PrimitiveDateTime::assume_utc)
}

/// Runs one statement, which is the same for both, on the database that is open. Written once, typed by sqlx for each.
macro_rules! on {
    ($store:expr, $side:ident, |$db:ident| $statement:expr) => {
        $crate::limited(async {
            Ok::<_, $crate::Error>(match &*$store.0 {
                $crate::Engine::Sqlite(pools) => {
                    let $db = &pools.$side;
                    $statement.await?
                }
                $crate::Engine::Postgres(pools) => {
                    let $db = &pools.$side;
                    $statement.await?
                }
            })
        })
        .await
    };
}
use on;

/// Runs statements in one transaction, `$db`, and commits it. Where one fails, or the block returns before its end, none of them is done.
macro_rules! transaction {
    ($store:expr, |$db:ident| $work:expr) => {
        $crate::limited(async {
            Ok::<_, $crate::Error>(match &*$store.0 {
                $crate::Engine::Sqlite(pools) => {
                    let mut $db = pools.writer.begin_with("BEGIN IMMEDIATE").await?;
                    let outcome = $work;
                    $db.commit().await?;
                    outcome
                }
                $crate::Engine::Postgres(pools) => {
                    let mut $db = pools.writer.begin().await?;
                    let outcome = $work;
                    $db.commit().await?;
                    outcome
                }
            })
        })
        .await
    };
}
use transaction;
