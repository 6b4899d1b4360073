//! Divides a history that is one table, while nodes write to it and read from it: the table becomes the first partition, and no row moves.
//!
//! 1. A condition is put on the table: what it holds came before a time that lies ahead. Nothing is looked at; a moment under a lock.
//! 2. The condition is found to hold of every row: the table is read through once. Meanwhile others read and write as ever.
//! 3. The table gets another name and is attached to a new one, which needs no further look: milliseconds under a lock.
//!
//! After a stop between two of them the next round goes on with the next.

use std::time::Duration;

use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::{Division, IS_DIVIDED, Width, begin, execute, literal, spans::make_table, within};
use crate::history::rows::key;
use crate::{Error, engine::postgres::Connections, limited};

/// Longest time for reading the table through.
const READ_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Least time that is left until the old table ends, so that all is done before.
const LEAST_LEFT: time::Duration = time::Duration::hours(12);

/// Divides the table.
pub(super) async fn divide(pool: &Connections, now: OffsetDateTime, width: Width) -> Result<Division, Error> {
    let numbered: Option<bool> = limited(async { Ok(sqlx::query_scalar(IS_NUMBERED).fetch_optional(pool).await?) }).await?;
    if numbered == Some(false) {
        warn!("the history stays one table: its ids do not come from a sequence, as those of the documented table do");
        return Ok(Division::Waits);
    }
    let Some(until) = limited(bound(pool, now, width)).await? else { return Ok(Division::Whole) };
    match within(READ_LIMIT, check(pool)).await {
        Ok(true) => {}
        Ok(false) => return Ok(Division::Whole),
        Err(e) if e.is_violation() => {
            limited(lift(pool)).await?;
            warn!(%until, "the history stays one table: rows say that they came after that time, which lies ahead. See docs/operators.md");
            return Ok(Division::Waits);
        }
        Err(e) => return Err(e),
    }
    let divided = limited(attach(pool, until)).await?;
    if divided {
        info!(%until, "the history is divided by time of arrival; what came before stays in data_history_before");
    }
    Ok(if divided { Division::Spans } else { Division::Whole })
}

/// Begins a step; `None`: another node is at it, or has done it.
async fn begin_whole(pool: &Connections) -> Result<Option<Transaction<'static, Postgres>>, Error> {
    let Some(mut transaction) = begin(pool).await? else { return Ok(None) };
    let divided: bool = sqlx::query_scalar(IS_DIVIDED).persistent(false).fetch_one(&mut *transaction).await?;
    Ok(if divided { None } else { Some(transaction) })
}

/// The first step; returns the time, and `None` where another node is at it.
async fn bound(pool: &Connections, now: OffsetDateTime, width: Width) -> Result<Option<OffsetDateTime>, Error> {
    let Some(mut transaction) = begin_whole(pool).await? else { return Ok(None) };
    let earlier: Option<Option<OffsetDateTime>> = sqlx::query_scalar(BOUND).persistent(false).fetch_optional(&mut *transaction).await?;
    let usable = earlier.flatten().filter(|until| *until > now + LEAST_LEFT);
    let until = usable.unwrap_or_else(|| width.end_after(now + time::Duration::days(1)));
    if usable.is_none() {
        let condition = format!(
            "ALTER TABLE data_history DROP CONSTRAINT IF EXISTS data_history_until; \
             ALTER TABLE data_history ADD CONSTRAINT data_history_until CHECK ({} < {}) NOT VALID",
            key!(),
            literal(until)
        );
        execute(&mut transaction, condition).await?;
    }
    transaction.commit().await?;
    Ok(Some(until))
}

/// The second step.
async fn check(pool: &Connections) -> Result<bool, Error> {
    let Some(mut transaction) = begin_whole(pool).await? else { return Ok(false) };
    let limit = READ_LIMIT.as_millis();
    execute(
        &mut transaction,
        format!("SET LOCAL statement_timeout = {limit}; ALTER TABLE data_history VALIDATE CONSTRAINT data_history_until"),
    )
    .await?;
    transaction.commit().await?;
    Ok(true)
}

/// Takes the first step back.
async fn lift(pool: &Connections) -> Result<(), Error> {
    let Some(mut transaction) = begin_whole(pool).await? else { return Ok(()) };
    execute(&mut transaction, "ALTER TABLE data_history DROP CONSTRAINT IF EXISTS data_history_until".to_owned()).await?;
    Ok(transaction.commit().await?)
}

/// The third step.
async fn attach(pool: &Connections, until: OffsetDateTime) -> Result<bool, Error> {
    let Some(mut transaction) = begin_whole(pool).await? else { return Ok(false) };
    execute(&mut transaction, "ALTER TABLE data_history RENAME TO data_history_before".to_owned()).await?;
    let statements = format!(
        "CREATE TABLE data_history (LIKE data_history_before INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION) \
         PARTITION BY RANGE (({})); \
         ALTER TABLE data_history ATTACH PARTITION data_history_before FOR VALUES FROM (MINVALUE) TO ({}); \
         ALTER TABLE data_history_before DROP CONSTRAINT data_history_until",
        key!(),
        literal(until)
    );
    execute(&mut transaction, statements).await?;
    make_table(&mut transaction, "data_history_other").await?;
    execute(&mut transaction, "ALTER TABLE data_history ATTACH PARTITION data_history_other DEFAULT".to_owned()).await?;
    execute(&mut transaction, TAKE_OVER.to_owned()).await?;
    transaction.commit().await?;
    Ok(true)
}

const IS_NUMBERED: &str = "SELECT attidentity = '' AND atthasdef FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid \
     WHERE attrelid = to_regclass('data_history') AND attname = 'id' AND relkind = 'r'";
const BOUND: &str = "SELECT CAST((regexp_match(pg_get_constraintdef(oid), '< ''([^'']+)''::timestamp with time zone'))[1] AS TIMESTAMPTZ) \
     FROM pg_constraint WHERE conrelid = to_regclass('data_history') AND conname = 'data_history_until'";
/// The sequence of the ids outlives the old table; whoever could read or write that can go on; rows are not to be taken for others.
const TAKE_OVER: &str = "DO $$ DECLARE named TEXT := pg_get_serial_sequence('data_history_before', 'id'); granted RECORD; BEGIN \
     IF named IS NOT NULL THEN EXECUTE format('ALTER SEQUENCE %s OWNED BY data_history.id', named); END IF; \
     FOR granted IN SELECT (aclexplode(relacl)).*, relowner FROM pg_class WHERE oid = 'data_history_before'::regclass LOOP \
     CONTINUE WHEN granted.grantee = granted.relowner; \
     EXECUTE format('GRANT %s ON data_history TO %s%s', granted.privilege_type, \
     CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END, \
     CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END); \
     END LOOP; END $$; \
     CREATE TRIGGER data_history_by_ctid BEFORE DELETE ON data_history FOR EACH STATEMENT EXECUTE FUNCTION data_history_by_ctid()";
