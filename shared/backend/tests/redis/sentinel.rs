//! Redis behind Sentinel: the node follows the master.

use motience_proto::model::Offset;
use motience_relay::{Delivery, Notice, StartPosition, Subscriber};
use motience_testing::{Redis, Sentinels};
use tokio::time::timeout;

use super::{
    P, all, each_once, node,
    sending::{LIMIT, send},
    tls::Authority,
    try_node,
};

/// Reads up to this offset. Returns the offsets of records, in order of their arrival, and to where resets went.
async fn until(reader: &mut Subscriber, last: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut records, mut resets) = (Vec::new(), Vec::new());
    while records.last() != Some(&last) {
        match timeout(LIMIT, reader.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => records.extend(batch.after(after).map(|(offset, ..)| offset.0)),
            Delivery::Notice(Notice::Reset { cursor, .. }) => resets.push(cursor.offset.0),
            other => panic!("only records and resets are expected, not {other:?}"),
        }
    }
    (records, resets)
}

#[tokio::test]
async fn a_node_follows_the_master_through_a_failover_and_nothing_is_lost_or_doubled() {
    let mut first = Redis::start().await;
    let second = Redis::replica_of(&first).await;
    let sentinels = Sentinels::start(3, &first, 1).await;
    let node = node(&sentinels.url(), &[("REDIS_REPLICAS", "1")]).await;
    let log = node.relay.log();
    let mut reader = node.relay.subscriber();
    reader.follow(P.producer, StartPosition::Live).await.unwrap();
    send(&node, P, 1..=20).await;
    assert_eq!(until(&mut reader, 20).await, ((1..=20).collect(), vec![]));

    // The master dies; until it is back as a replica nothing can be on two servers.
    first.kill();
    sentinels.until_master(&second).await;
    first.start_again().await;
    send(&node, P, 21..=40).await;
    let (records, resets) = until(&mut reader, 40).await;
    assert_eq!(records, (21..=40).collect::<Vec<_>>());
    assert_eq!(resets, [20], "the log begins a new epoch, and everything before it is there");

    each_once(&all(log, P).await, 1, 1..=40);
    assert_eq!(log.bounds(P).await.unwrap().last, Offset(40));
    node.ready().await.unwrap();
}

#[tokio::test]
async fn a_node_leaves_a_master_that_the_sentinels_have_left() {
    let first = Redis::start().await;
    let second = Redis::replica_of(&first).await;
    let sentinels = Sentinels::start(3, &first, 1).await;
    let node = node(&sentinels.url(), &[]).await;
    let log = node.relay.log();
    send(&node, P, 1..=3).await;
    // WAIT waits for the last write of its own connection only.
    assert!(first.command("INCR written\r\nWAIT 1 10000").await.contains("\n:1\r"));
    // The master hangs: nobody is told anything, and the connections to it last.
    first.pause();
    sentinels.until_master(&second).await;
    send(&node, P, 4..=6).await;
    each_once(&all(log, P).await, 1, 1..=6);
    first.resume();
}

#[tokio::test]
async fn sentinels_and_master_have_passwords_and_tls_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.sign("server");
    authority.sign("node");
    let (cert, key, ca) = (authority.path("server.pem"), authority.path("server.key"), authority.path("ca.pem"));
    let redis = Redis::over_tls(&cert, &key, &ca).await;
    redis.command("CONFIG SET requirepass secret").await;
    let port: u16 = redis.tls_url().rsplit(':').next().unwrap().parse().unwrap();
    let lines = [
        "tls-port {port}".to_owned(),
        "tls-replication yes".to_owned(),
        format!("tls-cert-file {cert}"),
        format!("tls-key-file {key}"),
        format!("tls-ca-cert-file {ca}"),
        "requirepass another".to_owned(),
        "sentinel auth-pass main secret".to_owned(),
    ];
    let sentinels = Sentinels::with(1, port, &lines.iter().map(|line| &line[..]).collect::<Vec<_>>()).await;
    let (cert, key) = (authority.path("node.pem"), authority.path("node.key"));
    let files = [("REDIS_CA", &ca[..]), ("REDIS_CERT", &cert), ("REDIS_KEY", &key)];
    let url = format!("rediss+sentinel://:secret@{}", sentinels.place());
    let settings = |more: &[(&'static str, &'static str)]| [&files[..], more].concat();
    let node = try_node(&url, &settings(&[("REDIS_SENTINEL_PASSWORD", "another")])).await.unwrap();
    node.ready().await.unwrap();
    for (url, settings, why) in [
        (&url, settings(&[]), "the password of the Sentinels"),
        (&url.replace(":secret@", ""), settings(&[("REDIS_SENTINEL_PASSWORD", "another")]), "the password of the master"),
        (&url.replace("/main", "/other"), settings(&[("REDIS_SENTINEL_PASSWORD", "another")]), "the name of the master"),
    ] {
        let error = try_node(url, &settings).await.err().unwrap_or_else(|| panic!("connected without {why}")).to_string();
        assert!(error.contains("Sentinels at 127.0.0.1") && !error.contains("secret"), "{error}");
    }
}
