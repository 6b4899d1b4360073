//! A database that the original services made is taken over as it stands.

use motience_proto::model::{ConsumerId, ProducerId, Role, UserId, Visibility};
use motience_testing::Postgres;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use time::{OffsetDateTime, macros::datetime};

use super::{file, server, user};
use crate::{Change, HistoryQuery, NewUser, Page, Store, Wanted};

/// The documentation's own statements.
const TABLES: &str = "
CREATE TABLE users (
  id SERIAL PRIMARY KEY,
  username VARCHAR(255) UNIQUE NOT NULL,
  password_hash VARCHAR(255) NOT NULL,
  role VARCHAR(50) NOT NULL, -- 'producer' or 'consumer'
  device_id VARCHAR(255),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE subscriptions (
  id SERIAL PRIMARY KEY,
  consumer_id INTEGER NOT NULL,
  producer_id INTEGER NOT NULL,
  status VARCHAR(50) DEFAULT 'active',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  UNIQUE(consumer_id, producer_id)
);";

const ROWS: &str = "
INSERT INTO users (username, password_hash, role, device_id, created_at) VALUES
  ('producer1', '$2b$10$abcdefghijklmnopqrstuv', 'producer', 'rpi_001', '2024-05-01 12:00:00'),
  ('consumer1', '$2b$10$abcdefghijklmnopqrstuv', 'consumer', NULL, '2024-05-01 12:00:00.25'),
  ('auditor', 'x', 'auditor', NULL, NULL);
INSERT INTO subscriptions (consumer_id, producer_id, status, created_at) VALUES
  (2, 1, 'active', '2024-06-01 00:00:00'), (2, 3, 'paused', NULL), (2, 4, NULL, NULL);";

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_postgres_database_is_imported() {
    let server_process = Postgres::start().await;
    let url = server_process.database("motience").await;
    let mut before = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(TABLES).execute(&mut before).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&mut before).await.unwrap();
    // The optional table, as a service that kept history may have made it: other widths, a time without a zone.
    sqlx::raw_sql(
        "CREATE TABLE data_history (id SERIAL PRIMARY KEY, producer_id INTEGER, device_id VARCHAR(255), payload JSONB, timestamp TIMESTAMP);
         INSERT INTO data_history (producer_id, device_id, payload, timestamp) VALUES (1, NULL, '{\"t\": 1}', '2024-05-01 12:00:00');",
    )
    .execute(&mut before)
    .await
    .unwrap();
    let rows = "SELECT string_agg((id, username, password_hash, role, device_id, created_at)::text, ';' ORDER BY id) FROM users UNION ALL SELECT string_agg((id, consumer_id, producer_id, status, created_at)::text, ';' ORDER BY id) FROM subscriptions";
    let untouched: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut before).await.unwrap();

    // Several nodes start at once.
    let config = server(&url);
    let (one, two, three) = tokio::join!(Store::open(&config), Store::open(&config), Store::open(&config));
    let (store, _, _) = (one.unwrap(), two.unwrap(), three.unwrap());
    let after: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut before).await.unwrap();
    assert_eq!(after, untouched);

    check_imported(&store).await;
    let kept = store.history(ProducerId(1), &HistoryQuery::default()).await.unwrap();
    assert_eq!((kept[0].device_id.as_str(), kept[0].timestamp), ("", datetime!(2024-05-01 12:00 UTC)));
    assert_eq!(kept[0].data.get(), r#"{"t": 1}"#);
    // When it came is not known, so that it is found by its own time.
    assert_eq!((kept[0].received_at, kept[0].extra.is_none()), (None, true));
    for (from, found) in [(datetime!(2024-05-01 12:00 UTC), 1), (datetime!(2024-05-01 12:01 UTC), 0)] {
        let query = HistoryQuery { from: Some(from), ..HistoryQuery::default() };
        assert_eq!(store.history(ProducerId(1), &query).await.unwrap().len(), found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_sqlite_database_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data").join("motience.db");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut before = SqliteConnection::connect_with(&options).await.unwrap();
    // In SQLite only INTEGER PRIMARY KEY numbers rows.
    sqlx::raw_sql(AssertSqlSafe(TABLES.replace("SERIAL", "INTEGER"))).execute(&mut before).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&mut before).await.unwrap();
    before.close().await.unwrap();

    let store = Store::open(&file(folder.path())).await.unwrap();
    check_imported(&store).await;
    store.close().await;
    // And once more, with nothing left to migrate.
    let store = Store::open(&file(folder.path())).await.unwrap();
    assert_eq!(store.users(Role::Producer, Page::default()).await.unwrap().len(), 2);
    // Its table counts on from the rows that are there, whatever numbers were given out.
    let new = |name: &str| NewUser {
        username: name.into(),
        password_hash: "x".into(),
        role: Role::Producer,
        device_id: Some("d".into()),
        strict_device: true,
    };
    let made = store.create_user_above(UserId(9), new("late")).await.unwrap();
    assert_eq!((made.user.id, made.user.strict_device, made.restored), (UserId(10), true, true));
    let (one, two) = tokio::join!(store.create_user_above(UserId(20), new("one")), store.create_user_above(UserId(20), new("two")));
    let mut ids = [one.unwrap().user.id, two.unwrap().user.id];
    ids.sort_unstable();
    assert_eq!(ids, [UserId(21), UserId(22)]);
    assert_eq!(user(&store, "next", Role::Producer).await.id, UserId(23));
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_file_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let _store = Store::open(&file(folder.path())).await.unwrap();
    for entry in std::fs::read_dir(folder.path().join("data")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
    }
}

async fn check_imported(store: &Store) {
    let producer = store.user(UserId(1)).await.unwrap().unwrap();
    assert_eq!((producer.username.as_str(), producer.role, producer.device_id.as_deref()), ("producer1", Role::Producer, Some("rpi_001")));
    assert_eq!(producer.created_at, datetime!(2024-05-01 12:00 UTC));
    let consumer = store.credentials("consumer1").await.unwrap().unwrap();
    assert!(consumer.password_hash.starts_with("$2b$10$"));
    assert_eq!(consumer.user.created_at, datetime!(2024-05-01 12:00:00.25 UTC));
    assert!(store.user(UserId(3)).await.unwrap().is_none(), "nobody can act in a role we do not know");

    assert_eq!(store.follows(ConsumerId(2), OffsetDateTime::UNIX_EPOCH).await.unwrap(), [ProducerId(1)]);
    let subscriptions = store.subscriptions_of(ConsumerId(2), Wanted::Standing, Page::default(), OffsetDateTime::UNIX_EPOCH).await.unwrap();
    assert_eq!(subscriptions[0].created_at, datetime!(2024-06-01 00:00 UTC));
    for (producer, change) in [(1, Change::Unchanged), (3, Change::Reactivated), (4, Change::Reactivated), (5, Change::Created)] {
        assert_eq!(
            store.subscribe(ConsumerId(2), ProducerId(producer), Visibility::Open, OffsetDateTime::UNIX_EPOCH).await.unwrap().1,
            change
        );
    }
    assert_eq!(user(store, "producer2", Role::Producer).await.id, UserId(4));
}
