//! A database that is away is `unavailable`, never a fault, and is used again when it is back.

use std::time::{Duration, Instant};

use super::{server, user};
use crate::{
    model::{Role, UserId},
    store::{ACQUIRE_LIMIT, CONNECT_LIMIT, Config, Error, Store},
    testing::Postgres,
};

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
