//! Everything about an account is exported and erased, on every engine.

use std::collections::BTreeSet;

use motience_auth::Scopes;
use motience_proto::model::{
    ConsumerId, Cursor, CursorName, DeviceId, LogEpoch, Offset, ProducerEpoch, RecordId, Role, Seq, User, Visibility,
};
use serde_json::value::RawValue;
use time::{OffsetDateTime, macros::datetime};

use super::{Engines, keep_from, user};
use crate::{Engine, HistoryRow, Invitation, NewKey, PERSONAL_TABLES, PersonalTable, RefreshToken, Store, personal::OTHER_TABLES};

const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);
const LATER: OffsetDateTime = datetime!(2026-02-01 00:00 UTC);

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_exported_and_erased_on_every_engine() {
    let engines = Engines::start().await;
    for (engine, store) in &engines.stores {
        println!("{engine}");
        every_table_is_listed(store).await;
        all_rows_are_exported_and_erased(store).await;
    }
}

/// A table that is in neither list is forgotten by the export and by the erasure: add its line to `PERSONAL_TABLES` of
/// `shared/store/src/personal.rs`, or to `OTHER_TABLES` where it has no rows about accounts.
async fn every_table_is_listed(store: &Store) {
    let found: Vec<String> = match &*store.0 {
        Engine::Sqlite(pools) => {
            let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
            sqlx::query_scalar(tables).fetch_all(&pools.reader).await.unwrap()
        }
        Engine::Postgres(pools) => {
            let tables = "SELECT CAST(relname AS TEXT) FROM pg_class WHERE relnamespace = current_schema()::regnamespace \
                          AND relkind IN ('r', 'p') AND NOT relispartition";
            sqlx::query_scalar(tables).fetch_all(&pools.reader).await.unwrap()
        }
    };
    let found: BTreeSet<&str> = found.iter().map(String::as_str).filter(|name| *name != "_sqlx_migrations").collect();
    let listed: BTreeSet<&str> = PERSONAL_TABLES.iter().map(|table| table.name).chain(OTHER_TABLES.iter().copied()).collect();
    assert_eq!(found, listed);
}

async fn all_rows_are_exported_and_erased(store: &Store) {
    let (producer, consumer, other) = (
        user(store, "erased-p", Role::Producer).await,
        user(store, "erased-c", Role::Consumer).await,
        user(store, "stays", Role::Consumer).await,
    );
    let (stays, operator) = (user(store, "stays-p", Role::Producer).await, user(store, "erased-a", Role::Admin).await);
    for account in [&producer, &consumer, &other, &operator] {
        fill(store, account, &producer, &stays).await;
    }
    let held = async |account: &User| {
        let mut names = Vec::new();
        for table in PERSONAL_TABLES {
            let rows = all(store, table, account).await;
            for row in &rows {
                assert!(serde_json::from_str::<serde_json::Value>(row).unwrap().is_object(), "{row}");
                assert!(!row.contains("secret"), "{row}");
            }
            if !rows.is_empty() {
                names.push(table.name);
            }
        }
        names
    };
    let logins = ["refresh_tokens", "login_addresses", "api_keys", "password_resets"];
    let expected = |before: &[&'static str], after: &[&'static str]| [before, &logins, after].concat();
    assert_eq!(held(&producer).await, expected(&["subscriptions", "history_cursors", "data_history"], &["invitations", "acts", "users"]));
    assert_eq!(held(&consumer).await, expected(&["subscriptions", "cursors"], &["invitations", "acts", "users"]));
    let others = held(&other).await;
    let history = PERSONAL_TABLES.iter().find(|table| table.name == "data_history").unwrap();
    let rows = all(store, history, &producer).await;
    assert_eq!(rows.len(), 250, "in several parts");
    let first: serde_json::Value = serde_json::from_str(&rows[0]).unwrap();
    assert!(first["payload"].to_string().contains('7') && first["device_id"] == "d", "{first}");

    for account in [&producer, &consumer] {
        assert!(store.begin_erasure(account.id, NOW).await.unwrap());
        store.close_account(account.id, NOW).await.unwrap();
        store.reopen_account(account.id, NOW).await.unwrap();
        assert!(store.account(account.id).await.unwrap().unwrap().revoked_at.is_some(), "an account that ends is not opened again");
        assert!(store.erasures().await.unwrap().iter().any(|(log, at)| log.producer.user() == account.id && *at == NOW));
        store.erase_rows(account.id).await.unwrap();
        assert_eq!(held(account).await, ["acts"], "what was done stays, and knows accounts by number only");
        store.erase_rows(account.id).await.unwrap();
        store.end_erasure(account.id).await.unwrap();
        assert!(!store.begin_erasure(account.id, NOW).await.unwrap(), "it is no more");
    }
    assert_eq!(store.erasures().await.unwrap(), []);
    assert_eq!(held(&other).await, others, "nobody else lost a row of their own");
    assert_eq!(store.cursors_named(other.id.consumer(), &name("app")).await.unwrap().len(), 1, "cursors in the erased log are gone");
}

async fn all(store: &Store, table: &PersonalTable, account: &User) -> Vec<String> {
    let (mut rows, mut position) = (Vec::new(), 0);
    loop {
        let part = store.personal_rows(table, account.id, position).await.unwrap();
        rows.extend(part.rows);
        match part.next {
            Some(next) => position = next,
            None => return rows,
        }
    }
}

/// A row in each table that an account of its role has rows in.
async fn fill(store: &Store, account: &User, producer: &User, stays: &User) {
    let id = format!("{:032x}", account.id.0);
    let token = RefreshToken { id: format!("secret-{id}"), family: format!("family-{id}"), user: account.id, expires_at: LATER };
    store.add_refresh(&token, None).await.unwrap();
    store.remember_address(account.id, "192.0.2.1", NOW).await.unwrap();
    let scopes: Scopes = "consume".parse().unwrap();
    let hash = format!("secret-key-{id}");
    let key = NewKey { id: &id, user: account.id, name: "k", hash: &hash, scopes: &scopes, created_at: NOW, expires_at: None };
    store.add_key(key).await.unwrap().unwrap();
    store.add_reset(&format!("secret-reset-{id}"), account.id, LATER).await.unwrap();
    let invitation = Invitation {
        id: id.clone(),
        role: None,
        note: None,
        uses_left: 1,
        created_by: Some(account.id),
        created_at: NOW,
        expires_at: LATER,
    };
    store.add_invitation(&invitation, &format!("secret-invitation-{id}")).await.unwrap();
    if account.role == Role::Consumer {
        let consumer: ConsumerId = account.id.consumer();
        for followed in [producer, stays] {
            store.subscribe(consumer, followed.id.producer(), Visibility::Open, NOW).await.unwrap();
            store.confirm(consumer, &name("app"), followed.id.producer(), at(1), NOW).await.unwrap();
        }
    }
    if account.id == producer.id {
        let rows = (1..=250).map(row).collect();
        keep_from(store, producer.id.producer(), None, at(250), rows).await.expect("nobody else writes");
    }
}

fn name(text: &str) -> CursorName {
    CursorName::new(text).unwrap()
}

fn row(offset: u64) -> HistoryRow {
    HistoryRow {
        place: at(offset),
        record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(offset) },
        device: DeviceId::new("d").unwrap(),
        timestamp: NOW,
        received_at: NOW,
        data: RawValue::from_string("7".to_owned()).unwrap(),
        extra: None,
    }
}

fn at(offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(7), offset: Offset(offset) }
}
