//! A disk that fails, as senders see it. Nobody listens on the other side.

use motience_certs::Trust;
use motience_proto::model::DeviceId;

use super::*;
use crate::{
    client::Server,
    outbox::{Policy, disk::sim::Disk},
};

fn start(disk: &Disk) -> Producer {
    let server = Server { host: "localhost".into(), port: 9 };
    let mut config = Config::new(client::Config::new(server, Trust::Platform, DeviceId::new("dev").unwrap()));
    config.outbox.policy = Policy::Block;
    config.outbox.commit_interval = Duration::from_millis(1);
    config.outbox.block_timeout = Duration::from_millis(500);
    let store = Store::open(disk.clone()).unwrap();
    Producer::start_with(config, Credentials::Token("t".into()), Some(store)).unwrap()
}

#[tokio::test]
async fn a_sender_hears_that_the_disk_is_full_and_can_go_on_when_it_is_not() {
    let disk = Disk::new();
    let producer = start(&disk);
    let first = producer.send("{}").await.unwrap();
    disk.set_room(disk.bytes().len() as u64);
    let mut taken = 1;
    let error = loop {
        match producer.send(vec![b'x'; 50_000]).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Disk(outbox::Error::NoSpace(_))), "{error}");
    let stats = producer.stats();
    assert_eq!((stats.outbox.enqueued, stats.outbox.records, stats.outbox.blocked, stats.outbox.abandoned), (taken, taken, 1, 1));
    assert!(producer.is_saved_through(first));
    disk.set_room(u64::MAX);
    // The persister tries again by itself, after ever longer waits.
    let again = loop {
        match producer.send("{}").await {
            Ok(seq) => break seq,
            Err(error) => assert!(matches!(error, Error::Disk(_)), "{error}"),
        }
    };
    let stats = producer.shutdown(Duration::ZERO).await;
    assert_eq!((stats.outbox.records, stats.outbox.unsaved), (taken + 1, 0));
    let producer = start(&disk);
    assert_eq!(producer.stats().outbox.records, taken + 1);
    assert!(producer.send("{}").await.unwrap() > again);
}
