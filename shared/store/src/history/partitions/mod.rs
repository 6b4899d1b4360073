//! The partitions of `data_history` in PostgreSQL: one for each span of times of arrival, so that what nobody keeps any longer costs one
//! `DROP TABLE` and no row. SQLite has one table, and loses old rows in pieces.
//!
//! `data_history` has three kinds of partitions. *Spans* are made a week ahead, and dropped as a whole. `data_history_before` is the table that
//! was there before it was divided ([`divide`]). `data_history_other` takes whatever the others do not: a record is kept whatever
//! the clock said that gave it its time. From these two, which have no beginning, old rows are deleted.
//!
//! Invariants: a statement about `data_history` finds every row, whichever partitions there are; rows do not change; a partition goes only while
//! nobody can write to it, and every producer that has rows in it keeps none of its times. Nobody waits longer than [`LOCK_LIMIT`] for a
//! lock that another statement needs too: the work is left for the next round.
//!
//! The key of the partitions is an expression (`key!`), because imported rows have no time of arrival. So PostgreSQL keeps uniqueness
//! within a partition only; the writer sees to it across them ([`names`](super::names)).

mod divide;
mod spans;

use std::time::Duration;

use motience_proto::model::ProducerId;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};
use time::OffsetDateTime;
use tokio::time::timeout;

pub use self::spans::Width;

use super::{postgres, rows::in_range};
use crate::{Engine, Error, Store, engine::postgres::Connections, limited};

/// Longest wait for a lock that stops readers and writers; others queue behind whoever waits.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// Longest work on one partition: rows of its span may have to move there first.
const WORK_LIMIT: Duration = Duration::from_secs(600);
/// How far ahead of the clock there are partitions: nodes may fail to make new ones for this long before rows go into `data_history_other`.
const AHEAD: time::Duration = time::Duration::days(7);
/// Most partitions made in one round: a clock that is years ahead does not make thousands.
const MADE_AT_ONCE: usize = 10;
/// How long after its end a span may still get rows: the history writer was behind, or the clock of a node is.
const LATE: time::Duration = time::Duration::days(1);
/// Of several nodes that are at it one goes on: any number, the same in all releases.
const DIVIDING: i64 = 0x6869_7374;

/// How the table of the history is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// One table.
    Whole,
    /// One table that cannot be divided yet: rows say that they came at times that lie ahead.
    Waits,
    /// A partition for each span of times.
    Spans,
}

/// A partition; without bounds where it has no beginning or takes all others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    name: String,
    from: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
}

impl Store {
    /// Divides the history, if it is not divided yet, and makes the partitions for what comes next. Without effect on SQLite.
    pub async fn divide_history(&self, now: OffsetDateTime, width: Width) -> Result<Division, Error> {
        let Engine::Postgres(pools) = &*self.0 else { return Ok(Division::Whole) };
        let pool = &pools.writer;
        if !is_divided(pool).await? {
            let division = divide::divide(pool, now, width).await?;
            if division != Division::Spans {
                return Ok(division);
            }
        }
        spans::make_ahead(pool, now, width).await?;
        Ok(Division::Spans)
    }

    /// Drops partitions of which nobody keeps anything: `before` says up to when a producer's rows are kept no longer; `None`: it keeps all.
    /// Returns how many they were.
    pub async fn drop_history(
        &self,
        now: OffsetDateTime,
        before: impl Fn(ProducerId) -> Option<OffsetDateTime> + Send,
    ) -> Result<u64, Error> {
        let Engine::Postgres(pools) = &*self.0 else { return Ok(0) };
        spans::drop_old(&pools.writer, now, before).await
    }

    /// Deletes old rows, as many as one statement takes, from the partitions that never become old as a whole. Returns how many they were.
    pub async fn trim_undivided(&self, before: impl Fn(ProducerId) -> Option<OffsetDateTime> + Send) -> Result<u64, Error> {
        let Engine::Postgres(pools) = &*self.0 else { return Ok(0) };
        let mut gone = 0;
        for partition in partitions(&pools.writer).await?.iter().filter(|partition| partition.from.is_none()) {
            for producer in holders(&pools.writer, partition).await? {
                let Some(before) = before(producer) else { continue };
                gone += limited(postgres::trim(&pools.writer, &partition.quoted(), producer.0, in_range(before))).await?;
            }
        }
        Ok(gone)
    }
}

impl Partition {
    fn quoted(&self) -> String {
        quoted(&self.name)
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn is_divided(pool: &Connections) -> Result<bool, Error> {
    limited(async { Ok(sqlx::query_scalar(IS_DIVIDED).fetch_one(pool).await?) }).await
}

/// The partitions, in order of their ends.
async fn partitions(pool: &Connections) -> Result<Vec<Partition>, Error> {
    type Found = (String, Option<OffsetDateTime>, Option<OffsetDateTime>);
    let found: Vec<Found> = limited(async { Ok(sqlx::query_as(PARTITIONS).fetch_all(pool).await?) }).await?;
    Ok(found.into_iter().map(|(name, from, until)| Partition { name, from, until }).collect())
}

/// Producers that have rows in a partition.
async fn holders(pool: &Connections, partition: &Partition) -> Result<Vec<ProducerId>, Error> {
    let statement = AssertSqlSafe(HOLDERS.replace("{}", &partition.quoted()));
    let found: Vec<i64> = limited(async { Ok(sqlx::query_scalar::<_, i64>(statement).persistent(false).fetch_all(pool).await?) }).await?;
    Ok(found.into_iter().map(ProducerId).collect())
}

/// Work on the tables themselves, in one transaction that waits no longer than [`LOCK_LIMIT`] for a lock; `None`: another node is at it.
async fn begin(pool: &Connections) -> Result<Option<Transaction<'static, Postgres>>, Error> {
    let mut transaction = pool.begin().await?;
    let limits = format!("SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}", LOCK_LIMIT.as_millis(), WORK_LIMIT.as_millis());
    execute(&mut transaction, limits).await?;
    let locked = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").persistent(false).bind(DIVIDING).fetch_one(&mut *transaction);
    Ok(if locked.await? { Some(transaction) } else { None })
}

/// Runs statements that are made of names and times of our own.
async fn execute(connection: &mut PgConnection, statements: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(connection).await?;
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(limit, work).await.unwrap_or(Err(Error::TimedOut))
}

/// A time as SQL.
fn literal(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("'{:04}-{:02}-{:02} {:02}:{:02}:00+00'", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute())
}

const IS_DIVIDED: &str = "SELECT COALESCE((SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('data_history')), FALSE)";
// The server's own words for the bounds, read back by the same session.
const PARTITIONS: &str = "SELECT CAST(relname AS TEXT), CAST((regexp_match(bound, 'FROM \\(''([^'']+)''\\)'))[1] AS TIMESTAMPTZ), \
     CAST((regexp_match(bound, 'TO \\(''([^'']+)''\\)'))[1] AS TIMESTAMPTZ) AS until \
     FROM (SELECT relname, pg_get_expr(relpartbound, pg_class.oid) AS bound FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
     WHERE inhparent = to_regclass('data_history')) AS bounds ORDER BY until NULLS FIRST, relname";
/// One look into an index for each producer, however many rows it has.
const HOLDERS: &str = "WITH RECURSIVE holders (producer) AS (SELECT MIN(producer_id) FROM {} UNION ALL \
     SELECT (SELECT MIN(producer_id) FROM {} WHERE producer_id > producer) FROM holders WHERE producer IS NOT NULL) \
     SELECT CAST(producer AS BIGINT) FROM holders WHERE producer IS NOT NULL";
