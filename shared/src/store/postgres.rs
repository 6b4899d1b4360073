//! What only PostgreSQL needs: how it is connected to, and its own way with the history.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, PgPool, Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{
    ACQUIRE_LIMIT, CONNECT_LIMIT, Error, MIGRATE_LIMIT, OPERATION_LIMIT, Pools,
    history::{HistoryRow, Row, in_range},
    json,
};

/// An unused connection is closed after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

pub(super) async fn open(url: &SecretString, max_connections: u32) -> Result<Pools<Postgres>, Error> {
    let options = PgConnectOptions::from_str(url.expose_secret())?.application_name("motience");
    migrate(&options).await?;
    // The server gives up when we do: a call that nobody waits for any more must not hold a lock.
    let limit = format!("{}ms", OPERATION_LIMIT.as_millis());
    let options = options.options([("statement_timeout", limit.as_str()), ("idle_in_transaction_session_timeout", limit.as_str())]);
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(IDLE_LIMIT)
        .connect_with(options)
        .await?;
    Ok(Pools::one(pool))
}

/// All rows in one statement. A value that JSONB cannot hold (a number beyond its range, say) must not fail the others: they are
/// then written one by one, and that value is kept as a string of its JSON.
pub(super) async fn append_history(pool: &PgPool, rows: &[&HistoryRow]) -> Result<(), Error> {
    match insert(pool, rows, |data| json::storable(data).into_owned()).await {
        Err(e) if e.is_bad_value() => {}
        other => return other,
    }
    let mut transaction = pool.begin().await?;
    for row in rows {
        let mut attempt = transaction.begin().await?;
        match insert(&mut *attempt, &[row], |data| json::storable(data).into_owned()).await {
            Ok(()) => attempt.commit().await?,
            Err(e) if e.is_bad_value() => {
                attempt.rollback().await?;
                tracing::warn!(producer = row.producer.0, offset = row.offset.0, "a record is kept as text: JSONB cannot hold its value");
                insert(&mut *transaction, &[row], json::quoted).await?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(transaction.commit().await?)
}

pub(super) async fn history(
    pool: &PgPool,
    producer: i64,
    from: OffsetDateTime,
    to: OffsetDateTime,
    after: i64,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let query = sqlx::query_as(SELECT).bind(producer).bind(after).bind(from).bind(to).bind(limit);
    Ok(query.fetch_all(pool).await?)
}

async fn insert<'e>(executor: impl sqlx::PgExecutor<'e>, rows: &[&HistoryRow], payload: impl Fn(&str) -> String) -> Result<(), Error> {
    let column = |value: fn(&HistoryRow) -> i64| rows.iter().map(|row| value(row)).collect::<Vec<_>>();
    sqlx::query(INSERT)
        .bind(column(|row| row.producer.0))
        .bind(rows.iter().map(|row| row.device.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| payload(row.data.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| in_range(row.timestamp)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| in_range(row.received_at)).collect::<Vec<_>>())
        .bind(column(|row| row.epoch.0.cast_signed()))
        .bind(column(|row| row.offset.0.cast_signed()))
        .execute(executor)
        .await?;
    Ok(())
}

const INSERT: &str = "INSERT INTO data_history (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset) \
     SELECT producer::integer, device, payload::jsonb, at, received, epoch, log_offset \
     FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[], $7::bigint[]) \
     AS rows (producer, device, payload, at, received, epoch, log_offset) \
     ON CONFLICT (producer_id, log_epoch, log_offset) DO NOTHING";
// The casts make an adopted table's INTEGER ids and zoneless times readable too.
const SELECT: &str = "SELECT CAST(id AS BIGINT) AS id, device_id, CAST(timestamp AS TIMESTAMPTZ) AS timestamp, CAST(payload AS TEXT) AS payload \
     FROM data_history WHERE producer_id = $1 AND data_history.id > $2 AND data_history.timestamp BETWEEN $3 AND $4 \
     ORDER BY data_history.id LIMIT $5";

/// On a connection of its own, which has no time limit for a statement.
async fn migrate(options: &PgConnectOptions) -> Result<(), Error> {
    let mut connection = timeout(CONNECT_LIMIT, options.connect()).await.map_err(|_| Error::TimedOut)??;
    timeout(MIGRATE_LIMIT, motience_migrations::postgres().run(&mut connection))
        .await
        .map_err(|_| Error::TimedOut)?
        .map_err(Error::Migrate)?;
    Ok(connection.close().await?)
}
