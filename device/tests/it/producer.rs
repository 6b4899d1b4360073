//! The outbox kept connected.

use std::time::Duration;

use motience_device::{
    Credentials, Producer,
    backoff::Backoff,
    client::{Error as ClientError, Lane},
    outbox,
    policy::Failure,
    producer::{Config, Error, LinkState, Outcome},
};
use motience_proto::{
    model::Seq,
    wire::{CloseCode, Credit, Frame, Health, Refused, StreamKind, Welcome},
};

use crate::support::{
    eventually,
    peer::{Peer, welcome},
    soon,
};

fn config(peer: &Peer) -> Config {
    let mut config = Config::new(peer.config());
    config.policy.backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(50) };
    config.policy.drain = Duration::from_millis(10);
    config
}

fn start(config: Config) -> Producer {
    Producer::start(config, Credentials::Token("t".into())).unwrap()
}

async fn send(producer: &Producer, count: usize) {
    for _ in 0..count {
        producer.send("{}").await.unwrap();
    }
}

#[tokio::test]
async fn a_reconnect_resends_only_what_is_not_in() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 10).await;

    let mut guest = peer.guest().await;
    let epoch = guest.hello.epoch;
    guest.welcome("").await;
    let mut records = guest.records();
    assert_eq!(records.take(10).await.to_string(), "1-10");
    guest.ack("1-4").await;
    assert_eq!(soon("the outcome", producer.acked(Seq(4))).await.unwrap(), Outcome::Acked);
    guest.close(CloseCode::Internal);

    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.epoch, epoch, "the outbox lives on");
    guest.welcome("1-4,6,9-10").await;
    let mut records = guest.records();
    assert_eq!(records.take(3).await.to_string(), "5,7-8");
    guest.ack("5,7-8").await;
    soon("the flush", producer.flush(Duration::from_secs(9))).await.unwrap();
    assert!(records.is_quiet());
    let stats = producer.shutdown(Duration::ZERO).await;
    assert_eq!((stats.outbox.acked, stats.outbox.sent, stats.transport.reconnects, stats.outbox.records), (10, 13, 1, 0));
    assert_eq!(stats.state, LinkState::Stopped);
}

#[tokio::test]
async fn a_refused_record_is_counted_and_not_sent_again() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 2).await;
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    records.take(2).await;
    guest.put(Frame::Refused(Refused { seq: Seq(1), code: "invalid_json".into(), message: "no".into() })).await;
    let outcome = soon("the outcome", producer.acked(Seq(1))).await.unwrap();
    assert_eq!(outcome, Outcome::Refused { code: "invalid_json".into(), message: "no".into() });
    guest.close(CloseCode::Internal);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    assert_eq!(guest.records().take(1).await.to_string(), "2");
    assert_eq!(producer.stats().outbox.refused, 1);
}

#[tokio::test]
async fn credit_bounds_what_is_under_way() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 10).await;
    let mut guest = peer.guest().await;
    guest.welcome_with(Welcome { credit: 3, ..welcome() }).await;
    let mut records = guest.records();
    assert_eq!(records.take(3).await.to_string(), "1-3");
    assert_eq!(producer.stats().outbox.sent, 3);
    guest.ack("2").await;
    assert_eq!(records.take(1).await.to_string(), "4");
    guest.put(Frame::Credit(Credit { records: 100 })).await;
    assert_eq!(records.take(6).await.to_string(), "5-10");
}

#[tokio::test]
async fn a_refusal_for_good_is_not_tried_again() {
    for code in [CloseCode::Protocol, CloseCode::Forbidden, CloseCode::TooLarge, CloseCode::Unauthenticated] {
        let peer = Peer::start();
        let producer = start(config(&peer));
        let seq = producer.send("{}").await.unwrap();
        peer.guest().await.close(code);
        let failure = soon("the stop", producer.stopped()).await;
        assert!(matches!(&failure, Failure::Connection(ClientError::Closed { code: got, .. }) if *got == code), "{failure:?}");
        assert!(matches!(producer.send("{}").await, Err(Error::Stopped(_))));
        assert!(matches!(producer.acked(seq).await, Err(Error::Stopped(_))));
        eventually("no connection is left", || peer.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_newer_connection_of_the_same_device_is_left_in_peace() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    producer.send("{}").await.unwrap();
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    guest.close(CloseCode::Fenced);
    eventually("the long wait", || producer.stats().state == LinkState::Waiting).await;
    eventually("no connection is left", || peer.connections() == 0).await;
    let stats = producer.shutdown(Duration::ZERO).await;
    assert_eq!((stats.state, stats.transport.reconnects, stats.outbox.records), (LinkState::Stopped, 0, 1));
}

#[tokio::test]
async fn another_device_of_the_same_name_is_told_of() {
    let peer = Peer::start();
    let mut settings = config(&peer);
    settings.policy.fenced = Duration::from_millis(10);
    let producer = start(settings);
    for times in 1..=3 {
        let mut guest = peer.guest().await;
        guest.welcome("").await;
        guest.close(CloseCode::Fenced);
        eventually("it is counted", || producer.stats().transport.superseded == times).await;
        assert_eq!(u64::from(producer.stats().transport.rivalry), times, "it goes on until a connection lasts");
    }
}

#[tokio::test]
async fn a_draining_server_gets_to_settle_what_is_under_way() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 2).await;
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    records.take(2).await;
    guest.put(Frame::Drain).await;
    eventually("the drain", || producer.stats().state == LinkState::Draining).await;
    send(&producer, 1).await;
    guest.ack("1-2").await;
    let end = soon("the close", guest.connection.closed()).await;
    assert!(matches!(ClientError::from(end), ClientError::Closed { code: CloseCode::Done, .. }));
    let mut next = peer.guest().await;
    next.welcome("1-2").await;
    assert_eq!(next.records().take(1).await.to_string(), "3", "what came after the drain goes to the next node");
    assert!(records.is_quiet());
}

#[tokio::test]
async fn a_server_that_acknowledges_nothing_is_left() {
    let peer = Peer::start();
    let producer = start(Config { ack_timeout: Duration::from_millis(200), ..config(&peer) });
    send(&producer, 1).await;
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    guest.records().take(1).await;
    let mut next = peer.guest().await;
    next.welcome("").await;
    assert_eq!(next.records().take(1).await.to_string(), "1");
}

#[tokio::test]
async fn shutdown_settles_first_and_takes_no_more() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    producer.send_on(Lane::Ordered, "{}").await.unwrap();
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    assert_eq!(records.next().await.0, StreamKind::Ordered);
    let shutdown = tokio::spawn(producer.shutdown(Duration::from_secs(9)));
    guest.ack("1").await;
    let stats = soon("the shutdown", shutdown).await.unwrap();
    assert_eq!((stats.outbox.acked, stats.outbox.records), (1, 0));
    let end = soon("the close", guest.connection.closed()).await;
    assert!(matches!(ClientError::from(end), ClientError::Closed { code: CloseCode::Done, .. }));
}

#[tokio::test]
async fn a_full_outbox_blocks_or_drops() {
    let peer = Peer::start();
    let mut settings = config(&peer);
    settings.outbox.records = 2;
    settings.outbox.block_timeout = Duration::from_millis(50);
    let dropping = start(settings.clone());
    send(&dropping, 5).await;
    assert_eq!((dropping.stats().outbox.dropped, dropping.stats().outbox.records), (3, 2));
    assert_eq!(dropping.acked(Seq(1)).await.unwrap(), Outcome::Dropped);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    assert_eq!(guest.records().take(2).await.to_string(), "4-5");
    drop(dropping);

    settings.outbox.policy = outbox::Policy::Block;
    let blocking = start(settings);
    send(&blocking, 2).await;
    assert!(matches!(blocking.send("{}").await, Err(Error::Full(_))));
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let waiting = async { tokio::join!(blocking.send("{}"), guest.ack("1")).0 };
    assert_eq!(soon("room", waiting).await.unwrap(), Seq(3));
}

#[tokio::test]
async fn a_record_over_the_servers_limit_stays_here() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    let long = producer.send(vec![b' '; 2000]).await.unwrap();
    let short = producer.send("{}").await.unwrap();
    let mut guest = peer.guest().await;
    guest.welcome_with(Welcome { max_record: 1000, ..welcome() }).await;
    assert_eq!(guest.records().take(1).await.to_string(), short.to_string());
    let outcome = soon("the outcome", producer.acked(long)).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused { code, .. } if code == "too_large"));
    assert!(matches!(producer.send(vec![b' '; 100_000]).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn a_device_says_how_it_is() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 40).await;
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    assert_eq!(guest.health().await, Health { backlog: 40, loss_ppm: None });
    guest.ack("1-40").await;
    assert_eq!(guest.health().await.backlog, 0, "it is news that the backlog is gone");
    producer.shutdown(Duration::ZERO).await;
}
