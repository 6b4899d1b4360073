//! Connections to PostgreSQL: straight, or through a pooler that may give each transaction another session (PgBouncer with
//! `pool_mode = transaction`).
//!
//! Such a pooler takes no session settings when a client connects, and a statement that was prepared in one transaction is not there in
//! the next. Behind one, every call is therefore a transaction of its own, which brings its settings, and no statement has a name.

use std::{str::FromStr, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, Either, Execute, Executor, PgConnection, PgPool, Postgres, Row as _, SqlStr, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::timeout;

use super::newer::{self, NEEDS, NEWEST};
use crate::{ACQUIRE_LIMIT, CONNECT_LIMIT, Error, MIGRATE_LIMIT, OPERATION_LIMIT};

/// An unused connection is closed after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for a connection to a replica: there is another who can be asked.
const REPLICA_ACQUIRE_LIMIT: Duration = Duration::from_secs(1);
/// Keeps starting nodes apart where a session's lock cannot: any number, the same in all releases.
const MIGRATION_LOCK: i64 = 0x6d6f_7469;

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    pool: PgPool,
    mode: Mode,
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One session, with its settings and its statements.
    Session,
    /// Another session for each transaction.
    Transaction,
}

impl Connections {
    /// Finds out what the address leads to, applies the migrations that are missing, and makes the pool.
    pub(crate) async fn open(url: &SecretString, max_connections: u32) -> Result<Self, Error> {
        let (options, mode) = find(url).await?;
        migrate(&options, mode).await?;
        let pool = pool(max_connections)
            .acquire_timeout(ACQUIRE_LIMIT)
            // In its place a question whose answer tells more.
            .test_before_acquire(false)
            .before_acquire(|connection, _| Box::pin(async move { Ok(is_good(connection).await) }));
        Ok(Self { pool: pool.connect_with(limits_of(mode, options)).await?, mode })
    }

    /// Finds out what the address of a replica leads to, and makes a pool of it.
    pub(crate) async fn open_replica(url: &SecretString, max_connections: u32) -> Result<Self, Error> {
        let (options, mode) = find(url).await?;
        let pool = pool(max_connections).acquire_timeout(REPLICA_ACQUIRE_LIMIT);
        Ok(Self { pool: pool.connect_with(limits_of(mode, options)).await?, mode })
    }

    /// Begins a transaction. Its statements must have no name: [`persistent(false)`](sqlx::query::Query::persistent).
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        match self.mode {
            Mode::Session => self.pool.begin().await,
            Mode::Transaction => self.pool.begin_with(sqlx::AssertSqlSafe(begin(OPERATION_LIMIT))).await,
        }
    }

    /// Begins a transaction whose statements read tables in the order of an index, as many rows as are wanted, and sort nothing. The planner
    /// cannot know how few of a divided table's rows are looked at, and would sort all of them; and to plan for each partition anew takes longer than to
    /// read a page.
    pub(crate) async fn begin_in_order(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let begin = if self.mode == Mode::Session { "BEGIN".to_owned() } else { begin(OPERATION_LIMIT) };
        let settings = "SET LOCAL enable_sort = off; SET LOCAL plan_cache_mode = force_generic_plan";
        self.pool.begin_with(sqlx::AssertSqlSafe(format!("{begin}; {settings}"))).await
    }

    /// Whether a statement of a transaction may have a name.
    pub(crate) fn keeps_statements(&self) -> bool {
        self.mode == Mode::Session
    }

    /// Takes a connection and gives it back: whether there was one, how many are open, and how many of them nobody uses.
    pub(crate) async fn measure(&self) -> (bool, u32, usize) {
        let waited = self.pool.acquire().await.is_ok();
        (waited, self.pool.size(), self.pool.num_idle())
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection by itself, as the migrations need it and as a check tries it.
pub(crate) async fn probe(url: &SecretString) -> Result<(), Error> {
    let options = without_session(&PgConnectOptions::from_str(url.expose_secret())?.application_name("motience"));
    Ok(connect(&options).await?.close().await?)
}

/// A replica, as a look at it finds it.
pub(crate) struct ReplicaState {
    /// Whether it takes no writes because it follows another server.
    pub(crate) is_replica: bool,
    /// The place of the primary's log to which it has come.
    pub(crate) place: i64,
    /// The id of the installation whose database it is; `None`: not one of ours yet.
    pub(crate) installation: Option<String>,
}

/// Asks a replica over a connection by itself.
pub(crate) async fn replica_state(url: &SecretString) -> Result<ReplicaState, Error> {
    let (options, mode) = find(url).await?;
    let pool = pool(1).acquire_timeout(CONNECT_LIMIT).connect_with(options).await?;
    let state = replica_state_of(&Connections { pool: pool.clone(), mode }).await;
    pool.close().await;
    state
}

/// Asks a replica.
pub(crate) async fn replica_state_of(connections: &Connections) -> Result<ReplicaState, Error> {
    let (is_replica, place): (bool, i64) = sqlx::query_as(REPLICA).fetch_one(connections).await?;
    let has_table: bool = sqlx::query_scalar("SELECT to_regclass('installation') IS NOT NULL").fetch_one(connections).await?;
    let installation = if has_table { sqlx::query_scalar(INSTALLATION).fetch_optional(connections).await? } else { None };
    Ok(ReplicaState { is_replica, place, installation })
}

/// The id of the installation whose database this is, asked over a connection by itself.
pub(crate) async fn installation(url: &SecretString) -> Result<Option<String>, Error> {
    Ok(replica_state(url).await?.installation)
}

const REPLICA: &str = "SELECT pg_is_in_recovery(), CAST(COALESCE(pg_last_wal_replay_lsn(), '0/0'::pg_lsn) - '0/0'::pg_lsn AS BIGINT)";
const INSTALLATION: &str = "SELECT id FROM installation WHERE one = 1";

/// Finds out how an address is connected to, and how connections there behave.
async fn find(url: &SecretString) -> Result<(PgConnectOptions, Mode), Error> {
    let plain = PgConnectOptions::from_str(url.expose_secret())?.application_name("motience");
    let mode = mode_of(&plain).await?;
    tracing::debug!(?mode, "the database is found");
    let options = match mode {
        Mode::Session => plain,
        Mode::Transaction => without_session(&plain),
    };
    Ok((options, mode))
}

fn pool(max_connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(max_connections).idle_timeout(IDLE_LIMIT)
}

fn limits_of(mode: Mode, options: PgConnectOptions) -> PgConnectOptions {
    if mode == Mode::Session { with_limits(&options) } else { options }
}

/// The server gives up when we do: a call that nobody waits for any more must not hold a lock.
fn with_limits(options: &PgConnectOptions) -> PgConnectOptions {
    let limit = format!("{}ms", OPERATION_LIMIT.as_millis());
    options.clone().options([("statement_timeout", limit.as_str()), ("idle_in_transaction_session_timeout", limit.as_str())])
}

/// Nothing in it asks for a setting of the session.
fn without_session(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().extra_float_digits(None).statement_cache_capacity(0)
}

/// The statement that begins a transaction with these limits.
fn begin(limit: Duration) -> String {
    let limit = limit.as_millis();
    format!("BEGIN; SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}")
}

/// Asks for settings of the session: a pooler refuses them, or passes over them.
async fn mode_of(options: &PgConnectOptions) -> Result<Mode, Error> {
    match connect(&with_limits(options)).await {
        Ok(mut connection) => {
            let question = sqlx::raw_sql("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'");
            let setting: String = question.fetch_one(&mut connection).await?.try_get(0)?;
            connection.close().await?;
            Ok(if setting == OPERATION_LIMIT.as_millis().to_string() { Mode::Session } else { Mode::Transaction })
        }
        Err(Error::Unavailable(sqlx::Error::Database(e)) | Error::Other(sqlx::Error::Database(e)))
            if e.message().contains("startup parameter") =>
        {
            Ok(Mode::Transaction)
        }
        Err(e) => Err(e),
    }
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, Error> {
    Ok(timeout(CONNECT_LIMIT, options.connect()).await.map_err(|_| Error::TimedOut)??)
}

/// Whether a connection that was idle can go on: it answers, and its session may write. One that began while the server took no writes,
/// as a replica or by its settings, keeps to that for as long as it lives, whatever the server does since.
async fn is_good(connection: &mut PgConnection) -> bool {
    let question = sqlx::raw_sql("SELECT current_setting('transaction_read_only')");
    let answer = question.fetch_one(connection).await.and_then(|row| row.try_get::<String, _>(0));
    let good = answer.as_deref().is_ok_and(|read_only| read_only == "off");
    if !good {
        metrics::counter!("motience_database_connections_dropped_total").increment(1);
    }
    good
}

/// On a connection of its own, which has no time limit for a statement.
async fn migrate(options: &PgConnectOptions, mode: Mode) -> Result<(), Error> {
    let mut connection = connect(options).await?;
    let migrating = async {
        let [needs, newest] =
            [steps(&mut connection, "schema_needs", NEEDS).await?, steps(&mut connection, "_sqlx_migrations", NEWEST).await?];
        newer::judge(needs, newest)?;
        match mode {
            Mode::Session => motience_migrations::postgres().run(&mut connection).await.map_err(Error::Migrate),
            Mode::Transaction => migrate_at_once(&mut connection).await,
        }
    };
    timeout(MIGRATE_LIMIT, migrating).await.map_err(|_| Error::TimedOut)??;
    Ok(connection.close().await?)
}

/// The answer to a question about a table; 0 where there is no such table yet.
async fn steps(connection: &mut PgConnection, table: &'static str, question: &'static str) -> Result<i64, Error> {
    if !has_table(connection, table).await? {
        return Ok(0);
    }
    Ok(sqlx::raw_sql(question).fetch_optional(connection).await?.map_or(Ok(0), |row| row.try_get(0))?)
}

async fn has_table(connection: &mut PgConnection, table: &'static str) -> Result<bool, Error> {
    let question = sqlx::AssertSqlSafe(format!("SELECT to_regclass('{table}') IS NOT NULL"));
    Ok(sqlx::raw_sql(question).fetch_one(connection).await?.try_get(0)?)
}

/// All steps in one transaction, under a lock of that transaction. The statements by which the steps are noted have names, which must be
/// neither there before nor left for others.
async fn migrate_at_once(connection: &mut PgConnection) -> Result<(), Error> {
    let begin = format!("{}; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})", begin(MIGRATE_LIMIT));
    let mut transaction = connection.begin_with(sqlx::AssertSqlSafe(begin)).await?;
    if !is_migrated(&mut transaction).await? {
        sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await?;
        let mut migrations = motience_migrations::postgres();
        migrations.set_locking(false).run(&mut *transaction).await.map_err(Error::Migrate)?;
        sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *transaction).await?;
    }
    Ok(transaction.commit().await?)
}

/// Whether every step of ours was applied as it is.
async fn is_migrated(connection: &mut PgConnection) -> Result<bool, Error> {
    if !has_table(connection, "_sqlx_migrations").await? {
        return Ok(false);
    }
    let applied = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(applied).persistent(false).fetch_all(connection).await?;
    let is_applied = |step: &sqlx::migrate::Migration| applied.iter().any(|(n, sum)| *n == step.version && sum[..] == step.checksum[..]);
    Ok(motience_migrations::postgres().iter().all(is_applied))
}

/// A statement that the server forgets at once.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<sqlx::postgres::PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

type Fetched = Either<PgQueryResult, PgRow>;

impl<'c> Executor<'c> for &'c Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Fetched, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.mode == Mode::Session {
            return self.pool.fetch_many(query);
        }
        // Our answers are pages: they are there whole before the transaction ends.
        let fetched = async move {
            let mut transaction = self.begin().await?;
            let fetched: Vec<Fetched> = transaction.fetch_many(Unnamed(query)).try_collect().await?;
            transaction.commit().await?;
            Ok(stream::iter(fetched.into_iter().map(Ok)))
        };
        fetched.try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.mode == Mode::Session {
            return self.pool.fetch_optional(query);
        }
        async move {
            let mut transaction = self.begin().await?;
            let row = transaction.fetch_optional(Unnamed(query)).await?;
            transaction.commit().await?;
            Ok(row)
        }
        .boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }
}
