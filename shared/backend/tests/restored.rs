//! A database that is restored from a backup, and two installations on one Redis: nobody is given what is another's.
//!
//! An account made after the backup was taken is unknown to the restored database, which would give its number to whoever comes next.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use motience_auth::{Grant, random_id};
use motience_backend::{Backend, Config};
use motience_log::SessionName;
use motience_proto::model::{
    ConsumerId, Cursor, CursorName, DeviceId, Offset, ProducerEpoch, RecordId, Role, Seq, Transport, User, UserId, Visibility,
};
use motience_relay::{Delivery, Notice, Publisher, StartPosition};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store::{self as store, HistoryBatch, HistoryQuery, HistoryRow, NewUser};
use motience_testing::Redis;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Where an installation keeps its accounts and its log.
struct Home<'r> {
    dir: tempfile::TempDir,
    redis: Option<&'r Redis>,
}

impl Home<'_> {
    fn accounts(&self) -> PathBuf {
        self.dir.path().join("motience.db")
    }

    async fn start(&self) -> Arc<Backend> {
        let env = Env::default().with("DATABASE_URL", "postgres://unused").with("JWT_SECRET", SECRET);
        let mut config = Config::from_env(&env).unwrap();
        config.store = store::Config::SqliteFile { path: self.accounts() };
        config.redis = self.redis.map(|redis| redis.url().into());
        config.data_dir = self.dir.path().to_owned();
        Backend::open(config, Clock::system()).await.unwrap()
    }

    /// A copy of the accounts of an installation that is stopped.
    fn back_up(&self) -> Vec<u8> {
        std::fs::read(self.accounts()).unwrap()
    }

    fn restore(&self, backup: &[u8]) {
        std::fs::write(self.accounts(), backup).unwrap();
        for beside in ["motience.db-wal", "motience.db-shm"] {
            let _ = std::fs::remove_file(self.dir.path().join(beside));
        }
    }
}

/// Runs a story on both logs.
macro_rules! stories {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn file() {
                super::$name(super::Home { dir: tempfile::tempdir().unwrap(), redis: None }).await;
            }

            #[tokio::test]
            async fn redis() {
                let redis = super::Redis::start().await;
                super::$name(super::Home { dir: tempfile::tempdir().unwrap(), redis: Some(&redis) }).await;
            }
        }
    )+};
}

stories!(
    a_newcomer_gets_nothing_of_whoever_had_its_number,
    a_number_is_not_given_out_twice,
    nodes_that_run_while_the_database_is_restored_let_go_of_the_lost,
);

fn new(name: &str, role: Role) -> NewUser {
    NewUser { username: name.into(), password_hash: "x".into(), role, device_id: None, strict_device: false }
}

async fn made(node: &Backend, name: &str, role: Role) -> User {
    node.create_account(new(name, role)).await.unwrap()
}

async fn grant(node: &Backend, user: &User) -> (Grant, String) {
    let token = node.tokens.issue(user, &random_id()).unwrap().access_token;
    (node.authenticate(&token).await.unwrap(), token)
}

fn device() -> SessionName {
    SessionName::device(&DeviceId::new("d").unwrap())
}

async fn send(publisher: &Publisher, seqs: impl IntoIterator<Item = u64>) {
    let mut group = publisher.group();
    for n in seqs {
        let json = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{n}}}"#);
        group.push(Seq(n), Bytes::from(json)).unwrap();
    }
    let ticket = group.submit().await.unwrap();
    timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
}

/// The first `count` numbers that are read of a producer from `from`.
async fn read(node: &Backend, user: UserId, from: StartPosition, count: usize) -> Vec<u64> {
    let mut subscriber = node.relay.subscriber();
    subscriber.follow(user.producer(), from).await.unwrap();
    let mut got = Vec::new();
    while got.len() < count {
        match timeout(LIMIT, subscriber.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => got.extend(batch.after(after).map(|(_, record_id, _)| record_id.seq.0)),
            Delivery::Notice(Notice::Reset { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    got
}

/// Ends a node and lets go of its files.
async fn stop(node: Arc<Backend>) {
    timeout(LIMIT, node.close()).await.expect("it closes");
}

/// A database that has a number to give out for the second time, because it has forgotten whom it gave it to.
fn forget(accounts: &Path, user: UserId) {
    let database = rusqlite::Connection::open(accounts).unwrap();
    database.busy_timeout(LIMIT).unwrap();
    database.execute("DELETE FROM users WHERE id = ?1", [user.0]).unwrap();
    database.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'users'", [user.0 - 1]).unwrap();
}

async fn a_newcomer_gets_nothing_of_whoever_had_its_number(home: Home<'_>) {
    let node = home.start().await;
    let reader = made(&node, "reader", Role::Consumer).await;
    let victim = made(&node, "victim", Role::Producer).await;
    let (old, token) = grant(&node, &victim).await;
    let publisher = node.relay.publisher(old.log_key(), device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=5).await;
    assert_eq!(read(&node, victim.id, StartPosition::Earliest, 5).await, [1, 2, 3, 4, 5]);
    // Everything that is kept by number: a subscription, a cursor, history, a device.
    let (name, consumer): (CursorName, ConsumerId) = (CursorName::new("all").unwrap(), reader.id.consumer());
    let head = node.relay.log().bounds(old.log_key()).await.unwrap();
    let place = Cursor { log_epoch: head.log_epoch(), offset: Offset(4) };
    node.store.subscribe(consumer, victim.id.producer(), Visibility::Open, node.clock.now()).await.unwrap();
    node.store.confirm(consumer, &name, victim.id.producer(), place, node.clock.now()).await.unwrap();
    let row = HistoryRow {
        place,
        record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(4) },
        device: DeviceId::new("d").unwrap(),
        timestamp: OffsetDateTime::UNIX_EPOCH,
        received_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string("4".into()).unwrap(),
        extra: None,
    };
    let batch = HistoryBatch { producer: victim.id.producer(), log: victim.log, expected: None, cursor: place, rows: vec![row] };
    node.store.keep_history(std::slice::from_ref(&batch)).await.unwrap();
    let presence = node.reports.devices.enter(old.log_key(), "d", Transport::Quic);
    assert_eq!(node.reports.devices_of(node.relay.log(), old.log_key()).await.len(), 1);

    // The account goes, and its rows stay behind; the log's own note of the numbers is not asked.
    forget(&home.accounts(), victim.id);
    let newcomer = node.store.create_user(new("newcomer", Role::Producer)).await.unwrap();
    assert_eq!(newcomer.id, victim.id, "the database gives the number out again");
    drop((publisher, presence));
    stop(node).await;
    let node = home.start().await;
    let key = node.relay.log_of(newcomer.id.producer()).await.unwrap();
    assert_eq!(key, newcomer.log_key());
    assert_eq!(node.relay.log().bounds(key).await.unwrap().last, Offset(0));
    assert_eq!(node.store.follows(consumer, node.clock.now()).await.unwrap(), [], "nobody has subscribed to the newcomer");
    assert_eq!(node.store.cursor(consumer, &name, newcomer.id.producer()).await.unwrap(), None);
    assert_eq!(node.store.cursors(consumer, None, 10).await.unwrap(), []);
    assert_eq!(node.store.cursors_named(consumer, &name).await.unwrap(), []);
    assert!(node.store.history(newcomer.id.producer(), &HistoryQuery::default()).await.unwrap().is_empty());
    assert_eq!(node.store.history_cursor(newcomer.id.producer()).await.unwrap(), None);
    assert_eq!(node.store.history_id(newcomer.id.producer(), place).await.unwrap(), None);
    assert!(node.reports.devices_of(node.relay.log(), key).await.is_empty());
    // The old token opens nothing; whoever still holds a right from it writes into the old log.
    assert!(node.authenticate(&token).await.is_err());
    let late = node.relay.publisher(old.log_key(), device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(late.seen().to_string(), "1-5");
    send(&late, [6]).await;
    assert_eq!(node.relay.log().bounds(key).await.unwrap().last, Offset(0));
    // The newcomer's own records are all that its readers get, whatever cursor they come with.
    let (own, _) = grant(&node, &newcomer).await;
    let publisher = node.relay.publisher(own.log_key(), device(), ProducerEpoch(2)).await.unwrap();
    assert!(publisher.seen().is_empty());
    send(&publisher, 11..=13).await;
    for from in [StartPosition::Earliest, StartPosition::After(place)] {
        assert_eq!(read(&node, newcomer.id, from, 3).await, [11, 12, 13]);
    }
    // Its history begins anew beside the other's rows, on the same number.
    let again = HistoryBatch { log: newcomer.log, ..batch };
    let kept = node.store.keep_history(&[HistoryBatch { rows: Vec::new(), ..again }]).await.unwrap();
    assert!(kept.moved.is_empty());
    assert_eq!(node.store.history_cursor(newcomer.id.producer()).await.unwrap(), Some(place));
    // A cursor of its log takes the other's place, however far back it stands.
    let first = Cursor { log_epoch: node.relay.log().bounds(key).await.unwrap().log_epoch(), offset: Offset(1) };
    node.store.confirm(consumer, &name, newcomer.id.producer(), first, node.clock.now()).await.unwrap();
    assert_eq!(node.store.cursors_named(consumer, &name).await.unwrap(), [(newcomer.id.producer(), first)]);
    drop((late, publisher));
    node.close().await;
}

async fn a_number_is_not_given_out_twice(home: Home<'_>) {
    let node = home.start().await;
    let reader = made(&node, "reader", Role::Consumer).await;
    stop(node).await;
    let backup = home.back_up();
    let node = home.start().await;
    let lost = made(&node, "lost", Role::Producer).await;
    let also = made(&node, "also lost", Role::Producer).await;
    let (old, token) = grant(&node, &lost).await;
    send(&node.relay.publisher(old.log_key(), device(), ProducerEpoch(1)).await.unwrap(), 1..=3).await;
    stop(node).await;
    home.restore(&backup);

    let node = home.start().await;
    assert!(node.authenticate(&token).await.is_err(), "its account is no more");
    let newcomer = made(&node, "newcomer", Role::Producer).await;
    assert!(newcomer.id > also.id, "{} comes after {}", newcomer.id, also.id);
    assert_eq!(made(&node, "next", Role::Producer).await.id.0, newcomer.id.0 + 1);
    // Who was there before the backup has everything.
    assert_eq!(node.relay.log_of(reader.id.producer()).await.unwrap(), reader.log_key());
    grant(&node, &reader).await;
    node.close().await;
}

async fn nodes_that_run_while_the_database_is_restored_let_go_of_the_lost(home: Home<'_>) {
    let node = home.start().await;
    let lost = made(&node, "lost", Role::Producer).await;
    let (old, token) = grant(&node, &lost).await;
    let ended = node.ended(&old);
    forget(&home.accounts(), lost.id);
    assert!(made(&node, "newcomer", Role::Producer).await.id > lost.id);
    timeout(LIMIT, ended).await.expect("live connections of the lost account end");
    assert!(node.authenticate(&token).await.is_err());
    node.close().await;
}

#[tokio::test]
async fn two_installations_on_one_redis_know_nothing_of_each_other() {
    let redis = Redis::start().await;
    let homes = [0, 1].map(|_| Home { dir: tempfile::tempdir().unwrap(), redis: Some(&redis) });
    let nodes = [homes[0].start().await, homes[1].start().await];
    let mut users = Vec::new();
    for node in &nodes {
        users.push(made(node, "p", Role::Producer).await);
    }
    assert_eq!(users[0].id, users[1].id);
    let (grants, mut read_by) = ([grant(&nodes[0], &users[0]).await.0, grant(&nodes[1], &users[1]).await.0], Vec::new());
    for (n, node) in nodes.iter().enumerate() {
        let mut subscriber = node.relay.subscriber();
        subscriber.follow(users[n].id.producer(), StartPosition::Earliest).await.unwrap();
        read_by.push(subscriber);
    }
    for (n, node) in nodes.iter().enumerate() {
        let publisher = node.relay.publisher(grants[n].log_key(), device(), ProducerEpoch(1)).await.unwrap();
        assert!(publisher.seen().is_empty());
        send(&publisher, [n as u64 + 1]).await;
    }
    for (n, subscriber) in read_by.iter_mut().enumerate() {
        let Delivery::Batch { batch, .. } = timeout(LIMIT, subscriber.next()).await.unwrap() else { panic!("a record comes") };
        assert_eq!(batch.entries()[0].record_id.seq, Seq(n as u64 + 1));
        assert!(subscriber.try_next().is_none());
    }
    // Closing an account of one ends nothing of the other: their buses are apart.
    let pair = nodes[0].tokens.issue(&users[0], &grants[0].family).unwrap();
    nodes[0].store.add_refresh(&(&pair.refresh).into(), None).await.unwrap();
    nodes[0].close_account(users[0].id).await.unwrap();
    let other = made(&nodes[1], "q", Role::Producer).await;
    timeout(LIMIT, nodes[0].ended(&grants[0])).await.expect("it is revoked here");
    nodes[1].close_account(other.id).await.unwrap();
    let old = Grant { issued_at: OffsetDateTime::UNIX_EPOCH, user: other.id, ..grants[1].clone() };
    timeout(LIMIT, nodes[1].revocations.revoked(&old)).await.expect("word of the own installation arrives");
    assert!(!nodes[1].revocations.is_revoked(&grants[1]));
    let keys = redis.command("KEYS *").await;
    let foreign: Vec<&str> = keys.lines().filter(|line| line.starts_with("m:")).collect();
    assert!(foreign.iter().all(|key| key.split(':').nth(1).is_some_and(|installation| installation.len() == 16)), "{keys}");
}

/// Keys of the first release named neither installation nor log.
#[tokio::test]
async fn logs_of_the_first_release_are_taken_over() {
    let redis = Redis::start().await;
    let home = Home { dir: tempfile::tempdir().unwrap(), redis: Some(&redis) };
    let node = home.start().await;
    let user = made(&node, "p", Role::Producer).await;
    let numbered = motience_proto::model::LogKey::numbered(user.id.producer());
    send(&node.relay.publisher(numbered, device(), ProducerEpoch(1)).await.unwrap(), 1..=3).await;
    let installation = node.store.installation().await.unwrap();
    stop(node).await;
    // As the first release has left it: an account without a log id, and keys without an installation.
    let database = rusqlite::Connection::open(home.accounts()).unwrap();
    database.execute("UPDATE users SET log_id = NULL", []).unwrap();
    drop(database);
    redis.command(&format!("DEL m:{installation}:moved")).await;
    let keys = redis.command(&format!("KEYS m:{installation}:{{*")).await;
    let present = format!("m:{installation}:{{{numbered}}}:");
    for part in keys.lines().filter_map(|line| line.strip_prefix(&present)) {
        assert!(redis.command(&format!("RENAME {present}{part} m:{{{}}}:{part}", user.id)).await.starts_with("+OK"));
    }

    let node = home.start().await;
    assert_eq!(node.relay.log_of(user.id.producer()).await.unwrap(), numbered);
    assert_eq!(read(&node, user.id, StartPosition::Earliest, 3).await, [1, 2, 3]);
    let again = node.relay.publisher(numbered, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(again.seen().to_string(), "1-3");
    assert!(!redis.command("KEYS m:{*").await.contains("m:{"), "nothing is left under the old names");
    // A second installation takes nothing over, and a second start neither.
    let other = Home { dir: tempfile::tempdir().unwrap(), redis: Some(&redis) }.start().await;
    assert_eq!(other.relay.log().bounds(numbered).await.unwrap().last, Offset(0));
}
