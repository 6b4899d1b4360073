//! Strangers on Redis, and the rights that a node needs there.

use std::{sync::Arc, time::Duration};

use motience_auth::random_id;
use motience_backend::{Backend, Config};
use motience_cluster::Event;
use motience_proto::model::{LogKey, ProducerId, Role, Transport};
use motience_relay::{Delivery, Notice, StartPosition, Subscriber};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store::{self as store, NewUser};
use motience_testing::Redis;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use super::{Device, LIMIT, P, all, each_once, keys, node, write};

async fn stranger(redis: &Redis) -> redis::aio::MultiplexedConnection {
    redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn receive(reader: &mut Subscriber, count: usize) -> Vec<(u64, String)> {
    let mut got = Vec::new();
    while got.len() < count {
        let Delivery::Batch { batch, after } = timeout(LIMIT, reader.next()).await.expect("in time") else { panic!("only records") };
        got.extend(batch.after(after).map(|(_, record_id, message)| (record_id.seq.0, String::from_utf8_lossy(message).into_owned())));
    }
    got
}

async fn follow(node: &Backend, key: LogKey) -> Subscriber {
    let mut reader = node.relay.subscriber();
    timeout(LIMIT, reader.follow(key.producer, StartPosition::Live)).await.unwrap().unwrap();
    reader
}

/// The published messages, as everyone who may subscribe can read them.
async fn overhear(redis: &Redis, channel: &str) -> tokio::sync::mpsc::UnboundedReceiver<Vec<u8>> {
    let (heard, hearing) = tokio::sync::mpsc::unbounded_channel();
    let client = redis::Client::open(format!("{}/?protocol=resp3", redis.url())).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(move |push: redis::PushInfo| {
        if push.kind == redis::PushKind::SMessage
            && let Some(redis::Value::BulkString(payload)) = push.data.into_iter().nth(1)
        {
            let _ = heard.send(payload);
        }
        Ok::<(), redis::RedisError>(())
    });
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    redis::cmd("SSUBSCRIBE").arg(channel).exec_async(&mut connection).await.unwrap();
    // Ends with the server.
    tokio::spawn(async move {
        let _connection = connection;
        std::future::pending::<()>().await;
    });
    hearing
}

#[tokio::test]
async fn a_forged_batch_reaches_nobody_and_hides_nothing() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut devices = [Device::new(log, P, "d").await];
    write(log, &mut devices, &[1]).await.unwrap();
    let channel = &format!("{}:live", keys(&node, P).await);
    let mut overheard = overhear(&redis, channel).await;
    let mut reader = follow(&node, P).await;
    let mut stranger = stranger(&redis).await;
    write(log, &mut devices, &[2]).await.unwrap();
    assert_eq!(receive(&mut reader, 1).await.len(), 1);
    let genuine = timeout(LIMIT, overheard.recv()).await.unwrap().unwrap();
    let altered = |from: &str, to: &str| {
        let at = genuine.windows(from.len()).position(|part| part == from.as_bytes()).expect("it is there");
        [&genuine[..at], to.as_bytes(), &genuine[at + from.len()..]].concat()
    };
    let log_epoch = log.bounds(P).await.unwrap().log_epoch();
    let forged = r#"{"n":666}"#;
    let zeros = "0".repeat(40);
    let forgeries = [
        // As the first release wrote it, without any seal.
        format!("{log_epoch} 3 7\n{} 3\n{forged}", forged.len()).into(),
        format!("{log_epoch} 3 7 {zeros} \n{} 3\n{forged}", forged.len()).into(),
        format!("{log_epoch} 1000000 7 {zeros} \n{} 3\n{forged}", forged.len()).into(),
        // A genuine message, published again for other offsets.
        altered(&format!("{log_epoch} 2 "), &format!("{log_epoch} 3 ")),
        altered(&format!("{log_epoch} 2 "), &format!("{log_epoch} 1000 ")),
        altered(&format!("{log_epoch} "), "9 "),
        altered("{\"n\":2}", "{\"n\":7}"),
        // The very same once more, and what is no message at all.
        genuine.clone(),
        Vec::new(),
        vec![b'x'; 100_000],
    ];
    for forgery in &forgeries {
        redis::cmd("SPUBLISH").arg(channel).arg(forgery).exec_async(&mut stranger).await.unwrap();
    }
    write(log, &mut devices, &[3, 4]).await.unwrap();
    let got = receive(&mut reader, 2).await;
    assert_eq!(got, [(3, "{\"n\":3}".to_owned()), (4, "{\"n\":4}".to_owned())]);
    each_once(&all(log, P).await, 1, 1..=4);
}

/// The history is kept from the log itself: a reader that asks for that never sees what was only published.
#[tokio::test]
async fn who_reads_from_the_log_alone_takes_nothing_from_the_ring() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut devices = [Device::new(log, P, "d").await];
    let mut live = follow(&node, P).await;
    let mut kept = node.relay.subscriber().from_log(Duration::from_millis(10));
    timeout(LIMIT, kept.follow(P.producer, StartPosition::Live)).await.unwrap().unwrap();
    for n in 1..=3 {
        write(log, &mut devices, &[n]).await.unwrap();
    }
    // The published messages and the log differ from here on.
    redis.command(&format!("XDEL {}:log 2-1", keys(&node, P).await)).await;
    assert_eq!(receive(&mut live, 3).await.len(), 3);
    let mut numbers = Vec::new();
    while numbers.last() != Some(&3) {
        if let Delivery::Batch { batch, after } = timeout(LIMIT, kept.next()).await.unwrap() {
            numbers.extend(batch.after(after).map(|(_, record_id, _)| record_id.seq.0));
        }
    }
    assert_eq!(numbers, [1, 3]);
}

/// Where what was heard disagrees with the log, the log is right, and readers come back to it.
#[tokio::test]
async fn the_log_is_right_where_what_was_heard_is_not() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut devices = [Device::new(log, P, "d").await];
    let mut reader = follow(&node, P).await;
    for batch in [&[1, 2, 3][..], &[4, 5]] {
        write(log, &mut devices, batch).await.unwrap();
    }
    assert_eq!(receive(&mut reader, 5).await.len(), 5);
    // The log epoch is unchanged, yet the log ends before the last published record.
    let keys = keys(&node, P).await;
    redis.command(&format!("XDEL {keys}:log 5-2")).await;
    redis.command(&format!("HSET {keys}:meta last 3")).await;
    let Delivery::Notice(Notice::Reset { cursor, .. }) = timeout(LIMIT, reader.next()).await.unwrap() else {
        panic!("a reset comes first")
    };
    assert_eq!(cursor.offset.0, 3);
    write(log, &mut devices, &[6]).await.unwrap();
    assert_eq!(receive(&mut reader, 1).await, [(6, "{\"n\":6}".to_owned())]);
}

async fn with_clock(redis: &Redis, clock: Clock) -> Arc<Backend> {
    let env = Env::from_pairs([
        ("DATABASE_URL", "postgres://unused"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("REDIS_URL", &redis.url()),
    ]);
    let mut config = Config::from_env(&env).unwrap();
    config.store = store::Config::SqliteMemory;
    Backend::open(config, clock).await.unwrap()
}

#[tokio::test]
async fn a_forged_or_future_revocation_locks_nobody_out() {
    let redis = Redis::start().await;
    let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000));
    let node = with_clock(&redis, clock).await;
    let new = NewUser { username: "u".into(), password_hash: "x".into(), role: Role::Consumer, device_id: None, strict_device: false };
    let user = node.store.create_user(new).await.unwrap();
    let installation = node.store.installation().await.unwrap();
    let (id, bus, reports) = (user.id, format!("m:{installation}:bus"), format!("m:{installation}:reports"));
    let token = |family: &str| node.tokens.issue(&user, family).unwrap().access_token;
    let family = random_id();
    let first = token(&family);
    node.authenticate(&first).await.unwrap();
    let mut stranger = stranger(&redis).await;
    for (channel, event) in [
        (&bus, format!("{{\"type\":\"user_revoked\",\"user\":{id},\"at_ms\":99999999999999}}")),
        (&bus, format!("{} {{\"type\":\"user_revoked\",\"user\":{id},\"at_ms\":99999999999999}}", "0".repeat(64))),
        (&bus, format!("{{\"type\":\"family_revoked\",\"family\":\"{family}\"}}")),
        (&reports, format!("{{\"type\":\"family_revoked\",\"family\":\"{family}\"}}")),
    ] {
        redis::cmd("PUBLISH").arg(channel).arg(event).exec_async(&mut stranger).await.unwrap();
    }
    // A genuine event that comes after them: once it is here, they were too.
    node.broadcast(Event::FamilyRevoked { family: "marker".into() }).await;
    let marker = token("marker");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while node.authenticate(&marker).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "a node believes itself");
        sleep(Duration::from_millis(10)).await;
    }
    node.authenticate(&first).await.unwrap();
    // A node whose clock is wrong: what it says counts up to now, and no further.
    hand.advance(Duration::from_secs(10));
    node.broadcast(Event::UserRevoked { user: user.id, at_ms: Some(99_999_999_999_999), families: Vec::new() }).await;
    while node.authenticate(&first).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "it is revoked");
        sleep(Duration::from_millis(10)).await;
    }
    hand.advance(Duration::from_secs(1));
    node.authenticate(&token("another")).await.unwrap();
}

/// The rights that docs/redis.md names, word for word.
fn documented_rights() -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/redis.md")).unwrap();
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER motience ")).expect("the page names them");
    line.replace("PASSWORD", "pw")
}

#[tokio::test]
async fn a_node_works_with_exactly_the_documented_rights() {
    let redis = Redis::durable().await;
    assert_eq!(redis.command(&documented_rights()).await, "+OK\r\n+OK\r\n");
    let settings = [
        ("REDIS_USERNAME", "motience"),
        ("REDIS_PASSWORD", "pw"),
        ("LOG_RETENTION_BYTES", "200"),
        ("REDIS_MEMORY_BUDGET", "1KiB"),
        ("LOG_MAX_SESSIONS", "1"),
    ];
    let node = node(&redis.url(), &settings).await;
    let log = node.relay.log();
    let mut reader = follow(&node, P).await;
    let mut devices = [Device::new(log, P, "d").await];
    for n in 1..=30 {
        write(log, &mut devices, &[n]).await.unwrap();
    }
    assert_eq!(receive(&mut reader, 30).await.len(), 30);
    log.offset_for_time(P, OffsetDateTime::UNIX_EPOCH).await.unwrap();
    node.broadcast(Event::FamilyRevoked { family: "marker".into() }).await;
    node.ready().await.unwrap();
    node.reports.devices.note(P, "d", Transport::Http, 1, None);
    super::sessions::until("what the node reports of a device is written", || async { !log.reports(P).await.unwrap().is_empty() }).await;
    super::sessions::until("its log is among those of which there are reports", || async { log.reported().await.unwrap() == [P] }).await;
    assert_eq!(node.reports.devices_of(log, P).await.len(), 1);
    all_steps_of_healing(&redis, &node, &mut devices).await;
    // Sessions are evicted.
    for name in ["e", "f"] {
        drop(Device::new(log, P, name).await);
    }
    super::sessions::until("one is connected, and nobody else is remembered", || async {
        redis.command(&format!("ZCARD {}:devices", keys(&node, P).await)).await.starts_with(":1")
    })
    .await;
    // The sweep has come by.
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !redis.command("INFO commandstats").await.contains("cmdstat_memory|usage") {
        assert!(tokio::time::Instant::now() < deadline, "the sweep comes by");
        sleep(Duration::from_millis(50)).await;
    }
    let refused = redis.command("ACL LOG").await;
    assert!(refused.starts_with("*0"), "{refused}");
    // And none of them in vain: what was not asked for is not allowed.
    for command in ["FLUSHALL", "CONFIG GET *", "KEYS *", "GET other", "ACL LIST", "SHUTDOWN"] {
        let answer = redis.command(&format!("AUTH motience pw\r\n{command}")).await;
        assert!(answer.contains("NOPERM"), "{command}: {answer}");
    }
}

/// Entries that nobody committed are removed, with the same rights.
async fn all_steps_of_healing(redis: &Redis, node: &Backend, devices: &mut [Device]) {
    let (log, keys) = (node.relay.log(), keys(node, P).await);
    redis.command(&format!("XADD {keys}:log 31-9 0000000000000007 {{}}")).await;
    redis.command(&format!("XADD {keys}:log 32-9 0000000000000007 {{}}")).await;
    devices[0].reopen(log).await.unwrap();
    write(log, devices, &[31]).await.unwrap();
    assert_eq!(log.bounds(P).await.unwrap().last.0, 31);
}

/// A channel that the rules forbid is served from the log, and everything else as before.
#[tokio::test]
async fn one_forbidden_channel_leaves_the_others_alone() {
    let redis = Redis::start().await;
    let (good, bad) = (LogKey::numbered(ProducerId(1)), LogKey::numbered(ProducerId(2)));
    let writing = node(&redis.url(), &[]).await;
    let installation = writing.store.installation().await.unwrap();
    let channels = format!("&m:{installation}:bus &m:{installation}:reports &{}:live", keys(&writing, good).await);
    redis.command(&format!("ACL SETUSER some on >pw ~* +@all resetchannels {channels}")).await;
    let reading = node(&redis.url(), &[("REDIS_USERNAME", "some"), ("REDIS_PASSWORD", "pw")]).await;
    let mut first = follow(&reading, good).await;
    let mut second = follow(&reading, bad).await;
    let connections = redis.command("CLIENT LIST TYPE pubsub").await;
    let ids =
        |list: &str| list.lines().filter_map(|line| line.split_once("id=")?.1.split(' ').next().map(str::to_owned)).collect::<Vec<_>>();
    for (producer, reader) in [(good, &mut first), (bad, &mut second)] {
        let mut devices = [Device::new(writing.relay.log(), producer, "d").await];
        for n in 1..=3 {
            write(writing.relay.log(), &mut devices, &[n]).await.unwrap();
            // From the log within seconds where it cannot be heard.
            assert_eq!(receive(reader, 1).await[0].0, n);
        }
    }
    assert_eq!(ids(&redis.command("CLIENT LIST TYPE pubsub").await), ids(&connections), "no connection was given up");
    // Once the rule is mended it is heard.
    redis.command("ACL SETUSER some allchannels").await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let channel = format!("{}:live", keys(&writing, bad).await);
    while !redis.command(&format!("PUBSUB SHARDNUMSUB {channel}")).await.contains(":1") {
        assert!(tokio::time::Instant::now() < deadline, "it is asked for again");
        sleep(Duration::from_millis(50)).await;
    }
}
