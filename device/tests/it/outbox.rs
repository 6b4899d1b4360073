//! The outbox on disk and its policies, as a server sees them.

use std::{path::Path, time::Duration};

use motience_device::{
    Credentials, Producer,
    backoff::Backoff,
    client::Lane,
    outbox::{self, Order, Storage},
    producer::{Config, Error, Outcome},
};
use motience_proto::{
    model::Seq,
    wire::{CloseCode, Frame, Refused, Skipped, Welcome},
};

use crate::support::{
    eventually,
    peer::{Peer, welcome},
    soon,
};

fn config(peer: &Peer) -> Config {
    let mut config = Config::new(peer.config());
    config.policy.backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(50) };
    config.outbox.commit_interval = Duration::from_millis(5);
    config
}

fn on_disk(peer: &Peer, dir: &Path) -> Config {
    let mut config = config(peer);
    config.outbox.storage = Storage::Disk(dir.join("state/outbox.redb"));
    config
}

fn start(config: Config) -> Producer {
    Producer::start(config, Credentials::Token("t".into())).unwrap()
}

async fn send(producer: &Producer, count: usize) {
    for n in 0..count {
        soon("the disk", producer.send_on(Lane::Ordered, format!("{{\"n\":{n}}}"))).await.unwrap();
    }
}

fn skipped(ranges: &str) -> Option<Frame> {
    Some(Frame::Skipped(Skipped { ranges: ranges.parse().unwrap() }))
}

#[tokio::test]
async fn what_is_dropped_is_told_until_it_is_acknowledged() {
    let peer = Peer::start();
    let mut settings = config(&peer);
    settings.outbox.records = 2;
    let producer = start(settings);
    send(&producer, 5).await;
    for _ in 0..2 {
        let mut guest = peer.guest().await;
        guest.welcome("").await;
        assert_eq!(guest.control().await, skipped("1-3"));
        assert_eq!(guest.records().take(2).await.to_string(), "4-5");
        guest.close(CloseCode::Internal);
    }
    let mut guest = peer.guest().await;
    guest.welcome("1").await;
    assert_eq!(guest.control().await, skipped("2-3"));
    guest.ack("2-5").await;
    eventually("all is settled", || producer.stats().outbox.records == 0).await;
    // With the first record of the next run, which drops nothing, nothing is told.
    send(&producer, 3).await;
    let mut records = guest.records();
    eventually("the drop", || producer.stats().outbox.dropped == 4).await;
    let told = guest.control().await;
    assert!(told == skipped("6") || told == skipped("7") || told == skipped("8"), "{told:?}");
    records.take(2).await;
    let stats = producer.stats();
    assert_eq!((stats.outbox.enqueued, stats.outbox.acked, stats.outbox.dropped, stats.outbox.abandoned), (8, 2, 4, 1));
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_run_ended() {
    let (peer, dir) = (Peer::start(), tempfile::tempdir().unwrap());
    let mut settings = on_disk(&peer, dir.path());
    settings.outbox.records = 4;
    let producer = start(settings.clone());
    send(&producer, 5).await;
    let in_use = Producer::start(settings.clone(), Credentials::Token("t".into())).unwrap_err();
    assert!(matches!(in_use, Error::Disk(outbox::Error::InUse(_))), "{in_use}");
    let mut guest = peer.guest().await;
    let epoch = guest.hello.epoch;
    guest.welcome("").await;
    assert_eq!(guest.control().await, skipped("1"));
    guest.records().take(4).await;
    guest.ack("2").await;
    guest.put(Frame::Refused(Refused { seq: Seq(3), code: "no".into(), message: "no".into() })).await;
    eventually("both are settled", || producer.stats().outbox.records == 2).await;
    let stats = producer.shutdown(Duration::ZERO).await;
    assert_eq!((stats.outbox.records, stats.outbox.unsaved), (2, 0));
    assert!(stats.disk.bytes.is_some_and(|bytes| bytes > 0));

    let producer = start(settings);
    assert_eq!(producer.stats().outbox.records, 2);
    assert!(producer.stats().outbox.oldest.is_some());
    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.epoch, epoch);
    guest.welcome("").await;
    assert_eq!(guest.control().await, skipped("1"));
    let mut records = guest.records();
    let (_, record) = records.next().await;
    assert_eq!((record.seq, &record.json[..]), (Seq(4), &b"{\"n\":3}"[..]));
    assert_eq!(records.take(1).await.to_string(), "5");
    let next = soon("the disk", producer.send("{}")).await.unwrap();
    assert!(next.0 > 1 << 40, "a copy of the file may go on, too: each start has numbers of its own");
    assert_eq!(records.take(1).await.to_string(), next.to_string());
    guest.ack(&format!("1,4-5,{next}")).await;
    soon("the flush", producer.flush(Duration::from_secs(9))).await.unwrap();
    let stats = producer.shutdown(Duration::ZERO).await;
    assert_eq!((stats.outbox.acked, stats.outbox.lost, stats.outbox.abandoned), (3, 0, 0));
}

#[tokio::test]
async fn a_record_is_sent_before_it_is_on_disk_and_taken_when_it_is_acknowledged() {
    let (peer, dir) = (Peer::start(), tempfile::tempdir().unwrap());
    let mut settings = on_disk(&peer, dir.path());
    settings.outbox.commit_interval = Duration::from_secs(3600);
    let producer = start(settings);
    let mut guest = peer.guest().await;
    guest.welcome("").await;
    let mut records = guest.records();
    let sending = async {
        let (_, record) = records.next().await;
        guest.ack(&record.seq.to_string()).await;
    };
    let (sent, ()) = soon("the acknowledgement", async { tokio::join!(producer.send("{}"), sending) }).await;
    assert_eq!(producer.acked(sent.unwrap()).await.unwrap(), Outcome::Acked);
}

#[tokio::test]
async fn a_file_that_is_no_outbox_is_kept_and_replaced() {
    let (peer, dir) = (Peer::start(), tempfile::tempdir().unwrap());
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/outbox.redb"), b"nonsense").unwrap();
    let producer = start(on_disk(&peer, dir.path()));
    send(&producer, 1).await;
    let names: Vec<_> = std::fs::read_dir(dir.path().join("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let damaged = names.iter().find(|name| name.to_str().unwrap().starts_with("outbox.redb.damaged-")).unwrap();
    assert_eq!(std::fs::read(dir.path().join("state").join(damaged)).unwrap(), b"nonsense");
}

#[tokio::test]
async fn live_records_overtake_the_backlog() {
    let peer = Peer::start();
    let mut settings = config(&peer);
    settings.outbox.order = Order::LiveFirst;
    let producer = start(settings);
    send(&producer, 8).await;
    let mut guest = peer.guest().await;
    guest.welcome_with(Welcome { credit: 4, ..welcome() }).await;
    let mut records = guest.records();
    assert_eq!(records.take(3).await.to_string(), "1-3", "a quarter of the credit is left");
    send(&producer, 2).await;
    assert_eq!(records.take(1).await.to_string(), "9");
    assert!(records.is_quiet());
    guest.ack("9").await;
    assert_eq!(records.take(1).await.to_string(), "10");
    guest.ack("1-2,10").await;
    assert_eq!(records.take(2).await.to_string(), "4-5");
    guest.ack("3-5").await;
    assert_eq!(records.take(3).await.to_string(), "6-8");
}

#[tokio::test]
async fn a_number_that_stays_here_leaves_no_hole() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    producer.send(vec![b' '; 2000]).await.unwrap();
    producer.send("{}").await.unwrap();
    let mut guest = peer.guest().await;
    guest.welcome_with(Welcome { max_record: 1000, ..welcome() }).await;
    assert_eq!(guest.control().await, skipped("1"));
    assert_eq!(guest.records().take(1).await.to_string(), "2");
}

/// An image, an overlay root, a snapshot: what the file says is true of an earlier day.
#[tokio::test]
async fn an_outbox_that_went_back_in_time_begins_a_new_life_and_sends_everything() {
    let (peer, dir) = (Peer::start(), tempfile::tempdir().unwrap());
    let settings = on_disk(&peer, dir.path());
    let producer = start(settings.clone());
    send(&producer, 3).await;
    let mut guest = peer.guest().await;
    let old = guest.hello.epoch;
    // Numbers up to 9 are in the log; 1 to 3 are the first that this outbox gives out.
    guest.welcome("1-9").await;
    let mut guest = peer.guest().await;
    let new = guest.hello.epoch;
    assert_ne!(new, old);
    guest.welcome("").await;
    assert_eq!(guest.records().take(3).await.to_string(), "1-3", "none of them is taken for one that is there");
    guest.ack("1-3").await;
    soon("the flush", producer.flush(Duration::from_secs(9))).await.unwrap();
    let stats = producer.stats();
    assert_eq!((stats.outbox.copies_found, stats.outbox.acked, stats.transport.superseded), (1, 3, 0));
    producer.shutdown(Duration::ZERO).await;

    // The epoch stays, and the outbox's own numbers are no cause for another.
    let producer = start(settings);
    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.epoch, new);
    guest.welcome("1-3").await;
    let next = soon("the disk", producer.send("{}")).await.unwrap();
    assert_eq!(guest.records().take(1).await.to_string(), next.to_string());
    guest.close(CloseCode::Internal);
    let mut guest = peer.guest().await;
    guest.welcome(&format!("1-3,{next}")).await;
    soon("the flush", producer.flush(Duration::from_secs(9))).await.unwrap();
    assert_eq!(producer.stats().outbox.copies_found, 0);
}

/// The copy reads its sensors, is switched off and on again, and only then finds its server.
#[tokio::test]
async fn what_a_copy_took_before_it_ever_connected_is_its_own() {
    let (peer, dir) = (Peer::start(), tempfile::tempdir().unwrap());
    let settings = on_disk(&peer, dir.path());
    let producer = start(settings.clone());
    send(&producer, 3).await;
    let mut guest = peer.guest().await;
    let old = guest.hello.epoch;
    guest.welcome("").await;
    guest.records().take(3).await;
    guest.ack("1-3").await;
    soon("the flush", producer.flush(Duration::from_secs(9))).await.unwrap();
    producer.shutdown(Duration::ZERO).await;

    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut alone = settings.clone();
    alone.client.server.port = deaf.local_addr().unwrap().port();
    let producer = start(alone);
    let own = [producer.send("{}").await.unwrap(), producer.send("{}").await.unwrap()];
    producer.shutdown(Duration::ZERO).await;

    let producer = start(settings);
    let mut guest = peer.guest().await;
    assert_eq!(guest.hello.epoch, old);
    // The other one was here with records of its own.
    guest.welcome("1-5").await;
    let mut guest = peer.guest().await;
    assert_ne!(guest.hello.epoch, old);
    guest.welcome("").await;
    assert_eq!(guest.records().take(2).await.to_string(), format!("{}-{}", own[0], own[1]));
    assert_eq!(producer.stats().outbox.copies_found, 1);
}

/// A machine that goes on in memory from a snapshot has no file to show it.
#[tokio::test]
async fn so_does_one_in_memory() {
    let peer = Peer::start();
    let producer = start(config(&peer));
    send(&producer, 2).await;
    let mut guest = peer.guest().await;
    let old = guest.hello.epoch;
    guest.welcome("").await;
    guest.records().take(2).await;
    guest.ack("1").await;
    eventually("one is settled", || producer.stats().outbox.acked == 1).await;
    guest.close(CloseCode::Internal);
    let mut guest = peer.guest().await;
    guest.welcome("1-3").await;
    let mut guest = peer.guest().await;
    assert_ne!(guest.hello.epoch, old);
    guest.welcome("").await;
    assert_eq!(guest.control().await, skipped("1"));
    assert_eq!(guest.records().take(1).await.to_string(), "2");
}
