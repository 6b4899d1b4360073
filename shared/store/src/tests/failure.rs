//! A database that is away is `unavailable`, never a fault, and is used again when it is back.

use std::time::{Duration, Instant};

use motience_proto::model::{Role, UserId};
use motience_testing::{PgBouncer, Postgres};
use sqlx::{Connection as _, PgConnection};

use super::{server, user};
use crate::{ACQUIRE_LIMIT, CONNECT_LIMIT, Config, Error, Store};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_is_survived() {
    let mut postgres = Postgres::start().await;
    let store = Store::open(&server(&postgres.url())).await.unwrap();
    let made = user(&store, "before", Role::Producer).await;

    postgres.stop().await;
    let start = Instant::now();
    let error = store.user(made.id).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(start.elapsed() < ACQUIRE_LIMIT + Duration::from_secs(3));

    postgres.start_again().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.user(made.id).await {
        assert!(error.is_unavailable() && Instant::now() < deadline, "{error:?}");
    }
    assert_eq!(store.user(made.id).await.unwrap(), Some(made));
    user(&store, "after", Role::Producer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_began_while_the_server_took_no_writes_are_left() {
    let postgres = Postgres::start().await;
    postgres.database("other").await;
    let store = Store::open(&server(&postgres.url_of("other"))).await.unwrap();
    user(&store, "before", Role::Producer).await;
    let administer = async |statement: &'static str| {
        let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    };
    administer("ALTER DATABASE other SET default_transaction_read_only = on").await;
    // Each session that there is ends by 57P01; new ones take no writes.
    administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'other'").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.user(UserId(1)).await.is_err() {
        assert!(Instant::now() < deadline, "reads go on");
    }
    let error = store.ping().await.unwrap_err();
    assert!(error.is_unavailable(), "it is not ready: {error:?}");
    for _ in 0..10 {
        store.user(UserId(1)).await.unwrap();
    }
    administer("ALTER DATABASE other RESET default_transaction_read_only").await;
    // At once, and all of them.
    let all = (0..20).map(|n| {
        let store = store.clone();
        async move { user(&store, &format!("after {n}"), Role::Producer).await }
    });
    futures_util::future::join_all(all).await;
    store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_start_behind_a_pooler_at_once() {
    let postgres = Postgres::start().await;
    postgres.database("fresh").await;
    let pooler = PgBouncer::start(&postgres).await;
    let config = server(&pooler.url("fresh"));
    let stores = futures_util::future::join_all((0..4).map(|_| Store::open(&config))).await;
    for (n, store) in stores.into_iter().enumerate() {
        let store = store.unwrap();
        user(&store, &format!("user {n}"), Role::Producer).await;
        store.ping().await.unwrap();
    }
    // And once more over what is there.
    Store::open(&config).await.unwrap();
}

#[tokio::test]
async fn an_address_where_nobody_is_fails_in_time() {
    let start = Instant::now();
    let error = Store::open(&server("postgres://postgres@127.0.0.1:1/none")).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(start.elapsed() < CONNECT_LIMIT + Duration::from_secs(2));
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_named_so() {
    let folder = tempfile::tempdir().unwrap();
    let blocker = folder.path().join("file");
    std::fs::write(&blocker, "not a folder").unwrap();
    let error = Store::open(&Config::SqliteFile { path: blocker.join("motience.db") }).await.unwrap_err();
    assert!(matches!(error, Error::File(_)), "{error:?}");
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let store = Store::open(&Config::SqliteMemory).await.unwrap();
    store.close().await;
    assert!(store.user(UserId(1)).await.unwrap_err().is_unavailable());
}
