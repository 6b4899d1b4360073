//! A Redis that is full, evicts or waits for replicas.

use std::{net::Ipv4Addr, time::Duration};

use motience_log as log;
use motience_proto::model::{LogKey, ProducerId};
use motience_relay::StartPosition;
use motience_runtime::telemetry;
use motience_testing::Redis;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{Device, LIMIT, P, all, each_once, node, sending::send, write};

/// A record of four thousand bytes that cannot be made much shorter, and what the device must do where it is refused.
async fn write_large(log: &log::Log, device: &mut [Device], seq: u64) -> Result<(), log::Error> {
    let mut batch = device[0].batch(&[seq]);
    for record in &mut batch.records {
        let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(4000).collect();
        record.message = format!("{{\"n\":{seq},\"x\":\"{noise}\"}}").into();
        record.id = None;
    }
    let outcome = log.append(device[0].log, std::slice::from_ref(&batch)).await?;
    outcome.into_iter().collect::<Result<Vec<()>, _>>()?;
    device[0].seen = batch.seen;
    Ok(())
}

async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !done().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The connection that brings what is published breaks, and Redis takes no other.
#[tokio::test]
async fn a_node_that_hears_nothing_is_not_ready() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    node.ready().await.unwrap();
    let mut operator = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).await.unwrap();
    let mut command = async |command: &str| {
        operator.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let length = timeout(LIMIT, operator.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    // The node's other connection and this one are two, and there may be no third.
    assert_eq!(command("CONFIG SET maxclients 2").await, "+OK\r\n");
    assert_eq!(command("CLIENT KILL TYPE pubsub").await, ":1\r\n");
    until("it is noticed", || async { node.ready().await.is_err_and(|unready| unready.away == ["push connection"]) }).await;
    let parts = node.parts().await;
    let push = parts.iter().find(|part| part.name == "push").unwrap();
    assert!(push.fault.is_some() && parts.iter().filter(|part| part.fault.is_some()).count() == 1, "{parts:?}");
    command("CONFIG SET maxclients 1000").await;
    until("it hears again", || async { node.ready().await.is_ok() }).await;
}

#[tokio::test]
async fn a_full_redis_is_read_restarted_on_and_swept() {
    let redis = Redis::with(&["--maxmemory", "16mb"]).await;
    let patient = [("REDIS_MEMORY_BUDGET", "0"), ("LOG_RETENTION_BYTES", "64MiB")];
    let first = node(&redis.url(), &patient).await;
    let log = first.relay.log();
    let mut device = [Device::new(log, P, "d").await];
    let mut written = 0;
    let refused = loop {
        match write_large(log, &mut device, written + 1).await {
            Ok(()) => written += 1,
            Err(e) => break e,
        }
        assert!(written < 40_000, "there is a limit");
    };
    assert!(matches!(&refused, log::Error::Unavailable(why) if why.contains("memory is full") && why.contains("REDIS_URL")), "{refused}");
    // Not only for a large record.
    redis.command("CONFIG SET maxmemory 15mb").await;
    assert_eq!(first.ready().await.unwrap_err().away, ["log full"]);
    // Consumers drain it, also those that come only now, and to a node that starts only now.
    let second = node(&redis.url(), &patient).await;
    for reading in [&first, &second] {
        assert_eq!(all(reading.relay.log(), P).await.len() as u64, written);
        let mut reader = reading.relay.subscriber();
        timeout(LIMIT, reader.follow(P.producer, StartPosition::Earliest)).await.unwrap().unwrap();
        timeout(LIMIT, reader.next()).await.unwrap();
        timeout(LIMIT, reader.follow(ProducerId(2), StartPosition::Live)).await.unwrap().unwrap();
    }
    // Less is to be kept: a node that starts with that makes room, and everybody goes on.
    let third = node(&redis.url(), &[("REDIS_MEMORY_BUDGET", "0"), ("LOG_RETENTION_BYTES", "1MiB")]).await;
    until("the log is swept", || async { third.ready().await.is_ok() && first.ready().await.is_ok() }).await;
    device[0].reopen(log).await.unwrap();
    assert_eq!(device[0].seen.max(), Some(written), "nothing that was refused counts as seen");
    write_large(log, &mut device, written + 1).await.unwrap();
    let head = log.bounds(P).await.unwrap();
    assert_eq!(head.last.0, written + 1);
    assert!(head.first.0 + 600 > written, "about a mebibyte is left: {head:?}");
}

#[tokio::test]
async fn the_largest_log_gives_way_before_redis_is_full_for_good() {
    telemetry::start_metrics();
    let redis = Redis::with(&["--maxmemory", "16mb"]).await;
    let node = node(&redis.url(), &[("LOG_RETENTION_BYTES", "1GiB")]).await;
    let log = node.relay.log();
    let (small, large) = (LogKey::numbered(ProducerId(1)), LogKey::numbered(ProducerId(2)));
    let mut quiet = [Device::new(log, small, "d").await];
    write(log, &mut quiet, &[1, 2, 3]).await.unwrap();
    let mut device = [Device::new(log, large, "d").await];
    let mut seq = 1;
    while seq <= 8_000 {
        if write_large(log, &mut device, seq).await.is_ok() {
            seq += 1;
        } else {
            let deadline = Instant::now() + LIMIT;
            while device[0].reopen(log).await.is_err() {
                assert!(Instant::now() < deadline, "room is made");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    assert_eq!(all(log, small).await.len(), 3, "who has little gives up nothing");
    let head = log.bounds(large).await.unwrap();
    assert!(head.last.0 == 8_000 && head.first.0 > 500, "{head:?}");
    let metrics = telemetry::render();
    let given_up = metrics.lines().find_map(|line| line.strip_prefix("motience_log_given_up_total{reason=\"memory\"} "));
    assert!(given_up.is_some_and(|number| number != "0"), "{metrics}");
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_in_production_and_shown_elsewhere() {
    for policy in ["allkeys-lru", "volatile-lru", "volatile-ttl"] {
        let redis = Redis::with(&["--maxmemory-policy", policy]).await;
        let refused = super::open(&redis.url(), &[], true).await.unwrap_err().to_string();
        assert!(refused.contains(policy) && refused.contains("noeviction") && refused.matches("REDIS_URL").count() == 1, "{refused}");
        telemetry::start_metrics();
        let _node = node(&redis.url(), &[]).await;
        let shown = |value: u8| telemetry::render().contains(&format!("motience_redis_hazard{{reason=\"evicts\"}} {value}"));
        until("the metric says it", || async { shown(1) }).await;
        redis.command("CONFIG SET maxmemory-policy noeviction").await;
        until("the metric says that it is mended", || async { shown(0) }).await;
        super::open(&redis.url(), &[], true).await.unwrap();
    }
}

#[tokio::test]
async fn a_redis_without_its_replicas_is_read_and_goes_on_when_they_are_back() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut device = [Device::new(log, P, "d").await];
    write(log, &mut device, &[1]).await.unwrap();
    redis.command("CONFIG SET min-replicas-to-write 1").await;
    let refused = write(log, &mut device, &[2]).await.unwrap_err();
    assert!(matches!(&refused, log::Error::Unavailable(why) if why.contains("NOREPLICAS")), "{refused}");
    assert_eq!(node.ready().await.unwrap_err().away, ["log"]);
    assert_eq!(all(log, P).await.len(), 1);
    let mut reader = node.relay.subscriber();
    timeout(LIMIT, reader.follow(ProducerId(2), StartPosition::Live)).await.unwrap().unwrap();
    redis.command("CONFIG SET min-replicas-to-write 0").await;
    node.ready().await.unwrap();
    write(log, &mut device, &[2]).await.unwrap();
    assert_eq!(all(log, P).await.len(), 2);
}

/// The functions are loaded once, by whoever comes first.
#[tokio::test]
async fn functions_that_are_there_are_not_loaded_again() {
    let redis = Redis::start().await;
    let _first = node(&redis.url(), &[]).await;
    redis.command("CONFIG RESETSTAT").await;
    let _second = node(&redis.url(), &[]).await;
    let stats = redis.command("INFO commandstats").await;
    assert!(stats.contains("cmdstat_function|list") && !stats.contains("cmdstat_function|load"), "{stats}");
}

/// A server that was a replica for a moment ends no connections, and whoever connects to it later finds it in another epoch. Nobody is at that port.
const FOR_A_MOMENT: &str = "MULTI\r\nREPLICAOF 127.0.0.1 1\r\nREPLICAOF NO ONE\r\nEXEC";

#[tokio::test]
async fn a_connection_that_knows_an_epoch_of_the_past_is_given_up() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    send(&node, P, 1..=3).await;
    let log = node.relay.log();
    let before = log.bounds(P).await.unwrap().epochs.present();
    redis.command(FOR_A_MOMENT).await;
    let deadline = Instant::now() + LIMIT;
    while log.bounds(P).await.unwrap().epochs.present() == before {
        assert!(Instant::now() < deadline, "the node goes on in the epoch of the past");
        sleep(Duration::from_millis(50)).await;
    }
    send(&node, P, 4..=6).await;
    each_once(&all(log, P).await, 1, 1..=6);
}

#[tokio::test]
async fn appends_go_on_where_only_the_connection_that_waits_for_replicas_knows_the_epoch() {
    let redis = Redis::start().await;
    let _replica = Redis::replica_of(&redis).await;
    let node = node(&redis.url(), &[("REDIS_REPLICAS", "1")]).await;
    send(&node, P, 1..=3).await;
    redis.command(FOR_A_MOMENT).await;
    // The connection that waits for replicas is made anew; the one that appends lasts.
    let connections = redis.command("CLIENT LIST TYPE normal").await;
    let waits = connections.lines().find(|line| line.contains("cmd=wait")).and_then(|line| line.split_whitespace().next()).unwrap();
    redis.command(&format!("CLIENT KILL ID {}", waits.trim_start_matches("id="))).await;
    send(&node, P, 4..=6).await;
    each_once(&all(node.relay.log(), P).await, 1, 1..=6);
}
