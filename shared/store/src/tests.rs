//! One story for every engine, and tests that are about one engine only.

mod acts;
mod audit;
mod concurrency;
mod consent;
mod cursors;
mod devices;
mod failure;
mod history;
mod legacy;
mod many_accounts;
mod newer;
mod once;
mod partitions;
mod personal;
mod story;

use std::path::Path;

use motience_proto::model::{Cursor, LogId, LogKey, ProducerId, Role, User};
use motience_testing::{PgBouncer, Postgres};

use time::macros::datetime;

use super::{Config, Division, HistoryBatch, HistoryRow, NewUser, Page, Store, Width};

/// A store of each engine. Databases and folders live as long as this.
struct Engines {
    stores: Vec<(&'static str, Store)>,
    _folder: tempfile::TempDir,
    _pooler: PgBouncer,
    _postgres: Postgres,
}

impl Engines {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::start().await;
        postgres.database("pooled").await;
        let pooler = PgBouncer::start(&postgres).await;
        let divided = Store::open(&server(&postgres.database("divided").await)).await.unwrap();
        let division = divided.divide_history(datetime!(2025-01-25 12:00 UTC), Width::of(None)).await.unwrap();
        assert_eq!(division, Division::Spans);
        let stores = vec![
            ("SQLite file", Store::open(&file(folder.path())).await.unwrap()),
            ("SQLite memory", Store::open(&Config::SqliteMemory).await.unwrap()),
            ("PostgreSQL", Store::open(&server(&postgres.url())).await.unwrap()),
            ("PgBouncer", Store::open(&server(&pooler.url("pooled"))).await.unwrap()),
            ("PostgreSQL in partitions", divided),
        ];
        Self { stores, _folder: folder, _pooler: pooler, _postgres: postgres }
    }
}

fn file(folder: &Path) -> Config {
    Config::SqliteFile { path: folder.join("data").join("motience.db") }
}

fn server(url: &str) -> Config {
    Config::Postgres { url: url.into(), max_connections: 10 }
}

async fn user(store: &Store, name: &str, role: Role) -> User {
    let new = NewUser { username: name.into(), password_hash: "$argon2id$x".into(), role, device_id: None, strict_device: false };
    store.create_user(new).await.unwrap()
}

/// Keeps rows after whatever is kept already, and tells how many were added.
async fn keep(store: &Store, producer: ProducerId, rows: Vec<HistoryRow>) -> u64 {
    let expected = store.history_cursor(producer).await.unwrap();
    let cursor = rows.last().map(|row| row.place).or(expected).unwrap_or_default();
    keep_from(store, producer, expected, cursor, rows).await.expect("nobody else writes")
}

async fn log_of(store: &Store, producer: ProducerId) -> LogId {
    store.log_id(producer.user()).await.unwrap().unwrap_or(LogKey::numbered(producer).log)
}

/// `None` where the history does not stand at `expected`.
async fn keep_from(store: &Store, producer: ProducerId, expected: Option<Cursor>, cursor: Cursor, rows: Vec<HistoryRow>) -> Option<u64> {
    let kept = store.keep_history(&[HistoryBatch { producer, log: log_of(store, producer).await, expected, cursor, rows }]).await.unwrap();
    if kept.moved.is_empty() {
        return Some(kept.rows);
    }
    assert_eq!((kept.moved, kept.rows), (vec![producer], 0));
    None
}

#[tokio::test]
async fn a_task_that_may_ask_the_database_has_no_room_for_it_while_it_does_not() {
    let store = Store::open(&Config::SqliteMemory).await.unwrap();
    let room = size_of_val(&store.key_by_hash("hash"));
    assert!(room <= 1 << 10, "{room} bytes for each task");
}

#[test]
fn a_page_that_is_not_full_is_the_last() {
    let mut page = Page { after: 3, limit: 2 };
    assert!(page.turn(2, Some(7)) && page.after == 7);
    assert!(!page.turn(1, Some(9)) && page.after == 9);
    assert!(!page.turn(0, None) && page.after == 9);
    // A thousand rows are all that there are of a page of more.
    assert!(Page { after: 0, limit: 5_000 }.turn(1_000, Some(1_000)));
}
