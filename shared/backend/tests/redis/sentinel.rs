//! Redis behind Sentinel: the node follows the master.

use std::time::Duration;

use motience_log::SessionName;
use motience_proto::model::{DeviceId, ProducerEpoch, Seq};
use motience_relay::Publisher;
use motience_testing::{Redis, Sentinels};
use tokio::time::timeout;

use super::{P, all, each_once, node, tls::Authority, try_node};

/// Sentinels take their time until they make a former master a replica.
const LIMIT: Duration = Duration::from_secs(60);

async fn send(publisher: &Publisher, seqs: std::ops::RangeInclusive<u64>) {
    for n in seqs {
        let mut group = publisher.group();
        let json = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
        group.push(Seq(n), json.into()).unwrap();
        let ticket = group.submit().await.unwrap();
        timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_node_leaves_a_master_that_the_sentinels_have_left() {
    let first = Redis::start().await;
    let second = Redis::replica_of(&first).await;
    let sentinels = Sentinels::start(3, &first, 1).await;
    let node = node(&sentinels.url(), &[]).await;
    let log = node.relay.log();
    let device = SessionName::device(&DeviceId::new("d").unwrap());
    let publisher = node.relay.publisher(P, device, ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=3).await;
    // WAIT waits for the last write of its own connection only.
    assert!(first.command("INCR written\r\nWAIT 1 10000").await.contains("\n:1\r"));
    // The master hangs: nobody is told anything, and the connections to it last.
    first.pause();
    sentinels.until_master(&second).await;
    send(&publisher, 4..=6).await;
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
