//! A question about a few accounts does not look at all of them.

use std::time::Duration;

use motience_proto::model::{Role, Visibility};
use motience_testing::Postgres;
use sqlx::{Connection as _, PgConnection};
use time::macros::datetime;
use tokio::time::sleep;

use super::{server, user};
use crate::{AccountQuery, Page, Store};

/// Accounts that are there.
const ACCOUNTS: i64 = 20_000;
/// Rows that all questions together may look at.
const FEW: i64 = 2_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_few_accounts_looks_at_few_rows() {
    let postgres = Postgres::start().await;
    let store = Store::open(&server(&postgres.url())).await.unwrap();
    let reader = user(&store, "reader", Role::Producer).await.id;
    let operator = user(&store, "operator", Role::Admin).await.id;
    let mut database = PgConnection::connect(&postgres.url()).await.unwrap();
    for role in ["producer", "consumer"] {
        let made =
            "INSERT INTO users (username, password_hash, role) SELECT $1 || '-' || n, 'none', $1 FROM generate_series(1, $2 / 2) AS n";
        sqlx::query(made).bind(role).bind(ACCOUNTS).execute(&mut database).await.unwrap();
    }
    sqlx::query("VACUUM ANALYZE").execute(&mut database).await.unwrap();
    store.close().await;
    let before = looked_at(&mut database).await;

    let store = Store::open(&server(&postgres.url())).await.unwrap();
    let page = Page { after: 0, limit: 200 };
    // Often enough for the server to take one plan for all of them, if it were let.
    for _ in 0..10 {
        let rare = AccountQuery { name: "umer-9999".to_owned(), page, ..AccountQuery::default() };
        assert_eq!(store.accounts(&rare).await.unwrap().len(), 1);
        let operators = AccountQuery { role: Some(Role::Admin), page, ..AccountQuery::default() };
        assert_eq!(store.accounts(&operators).await.unwrap()[0].user.id, operator);
        let now = datetime!(2025-01-29 11:35 UTC);
        assert_eq!(store.visible_producers(reader, Visibility::Private, page, now).await.unwrap().len(), 1);
        assert!(store.known_consumers(reader, page).await.unwrap().is_empty());
        assert!(store.closed_accounts(now).await.unwrap().is_empty());
    }
    store.close().await;
    let rows = looked_at(&mut database).await - before;
    assert!(rows < FEW, "{rows} rows were looked at");
}

/// Rows of accounts that were looked at so far, told once every other connection has ended: a server counts for good at the end of each.
async fn looked_at(database: &mut PgConnection) -> i64 {
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *database).await.unwrap() > 0 {
        sleep(Duration::from_millis(20)).await;
    }
    let rows = "SELECT CAST(seq_tup_read + COALESCE(idx_tup_fetch, 0) AS BIGINT) FROM pg_stat_user_tables WHERE relname = 'users'";
    sqlx::query_scalar(rows).fetch_one(database).await.unwrap()
}

/// A server may have no extension for parts of names, or let nobody make one.
#[tokio::test]
async fn names_are_found_without_an_index_of_their_parts() {
    let postgres = Postgres::start().await;
    let url = postgres.database("plain").await;
    let mut database = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain").execute(&mut database).await.unwrap();
    let store = Store::open(&server(&url.replace("postgres@", "plain@"))).await.unwrap();
    let found = user(&store, "found-by-a-part", Role::Producer).await;
    let query = AccountQuery { name: "BY-A".to_owned(), ..AccountQuery::default() };
    assert_eq!(store.accounts(&query).await.unwrap()[0].user.id, found.id);
    let indexes = "SELECT COUNT(*) FROM pg_indexes WHERE indexname = 'users_name_parts'";
    assert_eq!(sqlx::query_scalar::<_, i64>(indexes).fetch_one(&mut database).await.unwrap(), 0);
    store.close().await;
}
