//! Backups made while nodes work, restored elsewhere: everything acknowledged before is there, and everybody is told of the rest.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt as _;
use motience_device::client::Event;
use motience_proto::{
    model::ProducerId,
    wire::{Intent, Start},
};
use motience_testing::{Postgres, Redis};
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    harness::{Account, LIMIT, Node, account, command, http, server, subscribe},
    quic::{ap, connect, event},
};

/// A producer that sends one record after the other; how many are acknowledged.
struct Sending {
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Sending {
    fn start(node: &Node, producer: &Account) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (count, url, token) = (Arc::clone(&acknowledged), format!("{}/data", node.at.dsm.as_deref().unwrap()), producer.token.clone());
        let task = tokio::spawn(async move {
            for n in 1.. {
                assert!(post(&url, &token, n).await, "record {n} is taken");
                count.store(n, Ordering::SeqCst);
            }
        });
        Self { acknowledged, task }
    }

    /// Waits until `more` records are acknowledged. Returns how many are.
    async fn more(&self, more: u64) -> u64 {
        let wanted = self.acknowledged.load(Ordering::SeqCst) + more;
        let waiting = async {
            while self.acknowledged.load(Ordering::SeqCst) < wanted {
                assert!(!self.task.is_finished());
                sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, waiting).await.expect("records are acknowledged");
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Sends a record; whether it was acknowledged.
async fn post(url: &str, token: &str, n: u64) -> bool {
    let record = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
    let sent = http().post(url).bearer_auth(token).header("content-type", "application/json").body(record).send().await;
    sent.is_ok_and(|answer| answer.status() == 200)
}

/// The numbers in the log, from its beginning to `last` or beyond.
async fn logged(node: &Node, producer: &Account, consumer: &Account, last: u64) -> BTreeSet<u64> {
    let mut egress = connect(node, &consumer.token, "reader", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Earliest, "").await.unwrap();
    let mut numbers = BTreeSet::new();
    while !numbers.contains(&last) {
        let Event::Entries { entries, .. } = event(&mut egress).await.unwrap() else { continue };
        for entry in entries {
            let json: Value = serde_json::from_slice(&entry.message).unwrap();
            assert!(numbers.insert(json["data"]["n"].as_u64().unwrap()), "each once: {json}");
        }
    }
    numbers
}

/// The first message of a consumer that asks to go on at `resume`, or at the beginning.
async fn first_message(node: &Node, producer: &Account, consumer: &Account, resume: &str) -> Value {
    let wss2 = node.at.wss2.as_deref().unwrap();
    let resume = format!("%7B%22{}%22%3A%22{resume}%22%7D", producer.id);
    let (mut socket, _) = connect_async(format!("{wss2}?token={}&v=2&resume={resume}", consumer.token)).await.unwrap();
    loop {
        if let Message::Text(text) = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// Waits until a consumer may see the record `n`. Returns its cursor.
async fn cursor_of(node: &Node, producer: &Account, consumer: &Account, n: u64) -> String {
    let stream = format!("{}/stream?from=earliest&token={}", node.at.dsm.as_deref().unwrap(), consumer.token);
    let mut answer = http().get(stream).header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut text = String::new();
    loop {
        text.push_str(&String::from_utf8_lossy(&timeout(LIMIT, answer.chunk()).await.unwrap().unwrap().unwrap()));
        let (id, lines) = (producer.id.to_string(), text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        if let Some(line) = lines.filter(|line| line["producer_id"] == id[..]).find(|line| line["data"]["n"] == n) {
            return line["cursor"].as_str().unwrap().to_owned();
        }
    }
}

/// Runs a command of the program on a data folder: whether it succeeds, and its words.
async fn run(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = command(server(), folder);
    let run = timeout(LIMIT, command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output()).await.unwrap().unwrap();
    (run.status.success(), format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr)))
}

async fn accounts(node: &Node) -> (Account, Account) {
    let (producer, consumer) = (account(ap(node), "producer", "p").await, account(ap(node), "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    (producer, consumer)
}

/// The logs are those of the backup, everything acknowledged before is there, and they begin new epochs, of which a consumer is told.
async fn restored(node: &Node, (producer, consumer): (&Account, &Account), before: u64, lost: &str) {
    let url = format!("{}/data", node.at.dsm.as_deref().unwrap());
    assert!(post(&url, &producer.token, 1_000_000).await, "the accounts and their tokens are those of the backup");
    let numbers = logged(node, producer, consumer, 1_000_000).await;
    assert!((1..=before).all(|n| numbers.contains(&n)), "{before}: {numbers:?}");
    let told = first_message(node, producer, consumer, lost).await;
    assert_eq!(told["type"], "reset", "{told}");
}

#[tokio::test]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it_began() {
    let mut node = Node::embedded(&[]).await;
    let (producer, consumer) = accounts(&node).await;
    let sending = Sending::start(&node, &producer);
    let before = sending.more(30).await;
    let folder = node.dir.path().to_owned();
    let backup = folder.join("backup");
    let (done, words) = run(&folder, &["backup", "--to", backup.to_str().unwrap()]).await;
    assert!(done && words.contains("everything that was acknowledged"), "{words}");
    let after = sending.more(30).await;
    let lost = cursor_of(&node, &producer, &consumer, after).await;
    sending.task.abort();
    // Once made, a backup is not made over; and it is restored to no folder in use.
    let restore = ["restore", "--from", backup.to_str().unwrap()];
    for (arguments, why) in [(["backup", "--to", backup.to_str().unwrap()], "not empty"), (restore, "another process uses")] {
        let (done, words) = run(&folder, &arguments).await;
        assert!(!done && words.contains(why), "{words}");
    }
    node.signal("TERM");
    node.ended().await;
    let (done, words) = run(&folder, &restore).await;
    assert!(!done && words.contains("not empty") && words.contains("data/"), "{words}");
    fs::rename(folder.join("data"), folder.join("aside")).unwrap();
    // Damage is noticed before anything is done.
    let segment = fs::read_dir(backup.join("log.segments")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
    let (done, words) = run(&folder, &restore).await;
    assert!(!done && words.contains("log.segments/") && words.contains("damaged"), "{words}");
    fs::write(&segment, bytes).unwrap();
    let (done, words) = run(&folder, &restore).await;
    assert!(done && words.contains("new epochs"), "{words}");
    let node = node.restarted_on(&[]).await;
    restored(&node, (&producer, &consumer), before, &lost).await;
}

#[tokio::test]
async fn a_dump_and_a_copy_of_the_append_only_file_are_a_backup_of_a_cluster() {
    let (redis, postgres, files) = (Redis::durable().await, Postgres::start().await, tempfile::tempdir().unwrap());
    let start = async |redis: &Redis, postgres: &Postgres| {
        let secret = ("JWT_SECRET", "a secret that is long enough for this test");
        Node::embedded(&[("REDIS_URL", &redis.url()), ("DATABASE_URL", &postgres.url()), secret]).await
    };
    let node = start(&redis, &postgres).await;
    let (producer, consumer) = accounts(&node).await;
    let sending = Sending::start(&node, &producer);
    let before = sending.more(30).await;
    let dump = files.path().join("accounts.dump");
    postgres.dump(&dump).await;
    redis.back_up(files.path()).await;
    let after = sending.more(30).await;
    let lost = cursor_of(&node, &producer, &consumer, after).await;
    sending.task.abort();
    drop((node, redis, postgres));
    let (redis, postgres) = (Redis::restored(files.path()).await, Postgres::start().await);
    postgres.restore(&dump).await;
    let node = start(&redis, &postgres).await;
    restored(&node, (&producer, &consumer), before, &lost).await;
}
