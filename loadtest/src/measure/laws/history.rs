//! `loadtest laws --history`: what a page of the history takes, and how fast rows are written, beside the number of rows that there are. The rows
//! are of a year and of a hundred producers; the history of PostgreSQL has the partitions that a platform has which keeps them for a year.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use motience_proto::model::{Cursor, DeviceId, LogEpoch, LogId, Offset, ProducerEpoch, ProducerId, RecordId, Role, Seq};
use motience_runtime::clock::Clock;
use motience_store::{Config, HistoryBatch, HistoryQuery, HistoryRow, NewUser, Store, Width};
use motience_testing::Postgres;
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::samples::Samples;

const PRODUCERS: usize = 100;
/// Rows are made this many at a time.
const AT_ONCE: u64 = 500_000;
/// Pages of each kind that are read, and those of them that do not count: a connection reads for the first time.
const PAGES: usize = 60;
const WARM: usize = 10;
/// Transactions of a thousand rows.
const WRITES: u64 = 50;
const YEAR: time::Duration = time::Duration::days(364);
const CONNECTIONS: u32 = 4;

/// Kinds of pages.
const KINDS: [&str; 6] = ["first", "middle", "an hour", "60 days", "hour, device's", "60 days, device's"];

/// Measures each number of rows on an engine of its own, and prints a table.
pub(super) async fn run(postgres: &[u64], sqlite: &[u64]) -> Result<()> {
    let [first, middle, hour, days, hour_by, days_by] = KINDS;
    say!("median / 99 % in ms of a page of up to 1,000 rows");
    say!("{:>10} {:>10} | {first:>13} {middle:>13} {hour:>13} {days:>13} {hour_by:>17} {days_by:>17} | rows/s written", "engine", "rows");
    for &rows in sqlite {
        let folder = TempDir::new()?;
        let path = folder.path().join("motience.db");
        let store = Store::open(&Config::SqliteFile { path: path.clone() }).await?;
        measure("SQLite", store, rows, &Engine::Sqlite(&path)).await?;
    }
    for &rows in postgres {
        let server = Postgres::start().await;
        let store = Store::open(&Config::Postgres { url: server.url().into(), max_connections: CONNECTIONS }).await?;
        measure("PostgreSQL", store, rows, &Engine::Postgres(&server.url())).await?;
    }
    Ok(())
}

enum Engine<'a> {
    Postgres(&'a str),
    Sqlite(&'a Path),
}

async fn measure(name: &str, store: Store, rows: u64, engine: &Engine<'_>) -> Result<()> {
    let now = Clock::system().now();
    let mut producers = Vec::with_capacity(PRODUCERS);
    for n in 0..PRODUCERS {
        let new = NewUser {
            username: format!("kept-{n}"),
            password_hash: "none".to_owned(),
            role: Role::Producer,
            device_id: None,
            strict_device: false,
        };
        let user = store.create_user(new).await?.id;
        producers.push((user.producer(), store.log_id(user).await?.context("a new account has a log")?));
    }
    divide(&store, now).await?;
    fill(engine, rows, now - YEAR).await?;
    let mut columns = Vec::new();
    for kind in 0..KINDS.len() {
        columns.push(pages(&store, &producers, kind, rows, now).await?);
    }
    let written = write(&store, &producers, now).await?;
    store.close().await;
    let [first, middle, hour, days, hour_by, days_by] = columns.as_slice() else { anyhow::bail!("there is a column for each kind") };
    say!("{name:>10} {rows:>10} | {first:>13} {middle:>13} {hour:>13} {days:>13} {hour_by:>17} {days_by:>17} | {written:.0}");
    Ok(())
}

/// The partitions of a year, as if it had passed.
async fn divide(store: &Store, now: OffsetDateTime) -> Result<()> {
    let width = Width::of(Some(Duration::from_secs(365 * 86_400)));
    let mut at = now - YEAR - time::Duration::days(9);
    while at < now {
        store.divide_history(at, width).await?;
        at += time::Duration::days(1);
    }
    store.divide_history(now, width).await?;
    Ok(())
}

/// Rows in the order in which they came, evenly over the year and the producers.
async fn fill(engine: &Engine<'_>, rows: u64, from: OffsetDateTime) -> Result<()> {
    let step = YEAR.whole_milliseconds() as f64 / rows as f64;
    let begin = from.unix_timestamp() * 1000;
    let mut first = 0;
    while first < rows {
        let last = (first + AT_ONCE).min(rows);
        match engine {
            Engine::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                let statement = format!(
                    "INSERT INTO data_history (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, sender_epoch, sender_seq, log_id) \
                     SELECT ids[1 + n % {PRODUCERS}], 'device-' || n % 700, jsonb_build_object('temperature', n % 50, 'humidity', 40.5, 'n', n), at, at, 1, \
                     1 + n / {PRODUCERS}, 1, 1 + n / {PRODUCERS}, logs[1 + n % {PRODUCERS}] \
                     FROM (SELECT n, to_timestamp(({begin} + n * {step}) / 1000.0) AS at FROM generate_series({first}, {last} - 1) AS n) AS numbers, \
                     (SELECT array_agg(id ORDER BY id) AS ids, array_agg(log_id ORDER BY id) AS logs FROM users) AS accounts ORDER BY n"
                );
                sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
                if last == rows {
                    sqlx::query("VACUUM ANALYZE").execute(&mut connection).await?;
                }
                connection.close().await?;
            }
            Engine::Sqlite(path) => {
                let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await?;
                let at = format!("strftime('%Y-%m-%dT%H:%M:%f000Z', ({begin} + n * {step}) / 1000.0, 'unixepoch')");
                let statement = format!(
                    "WITH RECURSIVE numbers (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {last}) \
                     INSERT INTO data_history (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, sender_epoch, sender_seq, log_id) \
                     SELECT users.id, 'device-' || n % 700, '{{\"temperature\":' || n % 50 || ',\"humidity\":40.5,\"n\":' || n || '}}', {at}, {at}, 1, \
                     1 + n / {PRODUCERS}, 1, 1 + n / {PRODUCERS}, users.log_id FROM numbers JOIN users ON users.id = 1 + n % {PRODUCERS}"
                );
                sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        first = last;
        eprintln!("{last} rows");
    }
    Ok(())
}

/// How long each page of one kind takes.
async fn pages(store: &Store, producers: &[(ProducerId, LogId)], kind: usize, rows: u64, now: OffsetDateTime) -> Result<Samples> {
    let mut taken = Vec::with_capacity(PAGES);
    for n in 0..PAGES {
        let (producer, _) = producers[n * 7 % producers.len()];
        // From the 100th to the 300th day.
        let day = now - YEAR + time::Duration::days(100 + i64::try_from(n * 13 % 200)?);
        let mut query = HistoryQuery { by_device: kind >= 4, ..HistoryQuery::default() };
        match kind {
            0 => {}
            1 => query.after = i64::try_from(rows / 4 + rows / 2 * n as u64 / PAGES as u64)?,
            2 | 4 => (query.from, query.to) = (Some(day), Some(day + time::Duration::hours(1))),
            _ => query.from = Some(now - time::Duration::days(60)),
        }
        let began = Instant::now();
        let page = store.history(producer, &query).await?;
        let took = began.elapsed();
        anyhow::ensure!(!page.is_empty() || rows < 2_000_000, "a page of {} has no row", KINDS[kind]);
        if n >= WARM {
            taken.push(took);
        }
    }
    Ok(Samples::from(taken))
}

/// Rows written in a second, a thousand of all producers in each transaction.
async fn write(store: &Store, producers: &[(ProducerId, LogId)], now: OffsetDateTime) -> Result<f64> {
    let each = 1000 / PRODUCERS as u64;
    let data = RawValue::from_string(r#"{"temperature":21.5,"humidity":40.5,"n":123456}"#.to_owned())?;
    let device = DeviceId::new("device-1")?;
    let place = |n: u64| Cursor { log_epoch: LogEpoch(2), offset: Offset(n) };
    let mut took = Duration::ZERO;
    for write in 0..WRITES {
        let batches: Vec<HistoryBatch> = producers
            .iter()
            .map(|&(producer, log)| {
                let row = |n: u64| HistoryRow {
                    place: place(n),
                    record_id: RecordId { producer_epoch: ProducerEpoch(2), seq: Seq(n) },
                    device: device.clone(),
                    timestamp: now,
                    received_at: now,
                    extra: None,
                    data: data.clone(),
                };
                let rows = (write * each + 1..=(write + 1) * each).map(row).collect();
                let expected = (write > 0).then(|| place(write * each));
                HistoryBatch { producer, log, expected, cursor: place((write + 1) * each), rows }
            })
            .collect();
        let began = Instant::now();
        let kept = store.keep_history(&batches).await?;
        took += began.elapsed();
        anyhow::ensure!(kept.rows == 1000, "{} rows were kept", kept.rows);
    }
    Ok((WRITES * 1000) as f64 / took.as_secs_f64())
}
