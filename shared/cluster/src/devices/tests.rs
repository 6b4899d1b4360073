//! Which devices are remembered and forgotten, and how the reports of several nodes are joined.

use std::sync::atomic::{AtomicU64, Ordering};

use motience_proto::model::ProducerId;

use super::*;

const PRODUCER: LogKey = LogKey::numbered(ProducerId(7));

fn devices(node: &str, all: usize, each: usize) -> (Arc<Devices>, motience_runtime::clock::Manual) {
    let (clock, time) = Clock::manual(from_millis(1_000_000_000_000));
    (Arc::new(Devices::new(node.into(), clock, Most { all, each })), time)
}

fn all(devices: &Devices) -> Vec<DeviceStats> {
    devices.of(PRODUCER, usize::MAX, |_| true, |_| true)
}

fn names(devices: &Devices) -> Vec<String> {
    all(devices).into_iter().map(|d| d.device).collect()
}

#[test]
fn a_device_comes_sends_moves_and_goes() {
    let (devices, time) = devices("a", 10, 10);
    let presence = devices.enter(PRODUCER, "d", Transport::Quic);
    let port = Arc::new(AtomicU64::new(1));
    let moved = Arc::clone(&port);
    presence.watch(move || {
        let port = moved.load(Ordering::Relaxed);
        Path { rtt: Duration::from_millis(30), address: ([127, 0, 0, 1], port as u16).into(), packets: port }
    });
    presence.seen(20);
    presence.health(Some(12_500), 3);
    devices.look();
    port.store(2, Ordering::Relaxed);
    time.advance(Duration::from_secs(2));
    devices.look();
    let d = &all(&devices)[0];
    assert_eq!((d.connected, d.transport, d.records, d.rate, d.address_changes), (true, Transport::Quic, 20, 2.0, 1));
    assert_eq!((d.loss, d.rtt_ms, d.backlog), (Some(0.0125), Some(30.0), Some(3)));
    let quic_seen = d.last_seen_at;

    // While the tunnel takes over, the device is connected twice.
    let tunnel = devices.enter(PRODUCER, "d", Transport::Tunnel);
    drop(presence);
    let d = &all(&devices)[0];
    assert_eq!((d.connected, d.transport, d.backlog), (true, Transport::Tunnel, None));
    time.advance(Duration::from_secs(5));
    drop(tunnel);
    let d = &all(&devices)[0];
    assert_eq!((d.connected, d.rtt_ms, d.last_seen_at - quic_seen), (false, None, time::Duration::seconds(5)));
    devices.note(PRODUCER, "d", Transport::Http, 2, None);
    let d = &all(&devices)[0];
    assert_eq!((d.connected, d.transport, d.records), (false, Transport::Http, 22));
    time.advance(REMEMBER);
    devices.look();
    assert!(names(&devices).is_empty());
}

#[test]
fn the_longest_silent_make_room_and_the_connected_do_not() {
    let (devices, time) = devices("a", 5, 3);
    let _stays = devices.enter(PRODUCER, "connected", Transport::WebSocket);
    for n in 0..4 {
        time.advance(Duration::from_secs(1));
        devices.note(PRODUCER, &n.to_string(), Transport::Http, 1, None);
    }
    assert_eq!(names(&devices), ["2", "3", "connected"]);
    for n in 0..10 {
        time.advance(Duration::from_secs(1));
        devices.note(LogKey::numbered(ProducerId(100 + n)), "x", Transport::Http, 1, None);
    }
    assert_eq!((names(&devices), devices.here.lock().devices), (vec!["connected".to_owned()], 5));
    // Nobody makes room for one more than all who are connected.
    let _all: Vec<_> = (0..3).map(|n| devices.enter(PRODUCER, &format!("c{n}"), Transport::Quic)).collect();
    assert_eq!(names(&devices), ["c0", "c1", "connected"]);
}

#[test]
fn one_connection_may_carry_several_devices() {
    let (devices, _time) = devices("a", 10_000, 10_000);
    let mut senders = devices.senders(PRODUCER, Transport::WebSocket);
    for device in ["x", "x", "y", "x"] {
        senders.seen(device, None);
    }
    let counts: Vec<_> = all(&devices).into_iter().map(|d| (d.device, d.records, d.connected)).collect();
    assert_eq!(counts, [("x".to_owned(), 3, true), ("y".to_owned(), 1, true)]);
    for n in 0..2000 {
        senders.seen(&n.to_string(), None);
    }
    let connected = all(&devices).into_iter().filter(|d| d.connected).count();
    assert_eq!(connected, 1025);
    drop(senders);
    assert!(!all(&devices).into_iter().any(|d| d.connected));
}

#[test]
fn nodes_tell_each_other_and_a_dead_one_is_not_believed() {
    let ((here, time), (there, _)) = (devices("here", 10, 10), devices("there", 10, 10));
    let (_old, _new) = (here.enter(PRODUCER, "d", Transport::Quic), there.enter(PRODUCER, "d", Transport::Tunnel));
    there.note(PRODUCER, "d", Transport::Tunnel, 5, None);
    there.note(PRODUCER, "e", Transport::Http, 1, None);
    here.note(PRODUCER, "d", Transport::Quic, 1, None);
    let now = here.clock.now();
    here.apply("there", &there.look(), now);
    here.apply("here", &here.look(), now);
    assert_eq!(names(&here), ["d", "e"]);
    assert_eq!(all(&here)[0].records, 6);
    let d = &here.of(PRODUCER, usize::MAX, |_| true, |node| node == "here")[0];
    assert_eq!((d.connected, d.node.as_str()), (true, "here"));
    // Nothing new is told once, and again after a while.
    let told = |looks: usize| (0..looks).map(|_| there.look().len()).sum::<usize>();
    told(10);
    assert_eq!(told(1), 0);
    assert_eq!(told(REPEAT_CONNECTED as usize), 1);
    time.advance(BELIEVE_FOR);
    here.prune(here.clock.now());
    assert_eq!(names(&here), ["d"]);
}

#[test]
fn a_part_of_the_devices_is_the_first_that_are_wanted() {
    let ((here, _time), (there, _)) = (devices("here", 100, 100), devices("there", 100, 100));
    for n in (0..40).rev() {
        here.note(PRODUCER, &format!("d{n:02}"), Transport::Http, 1, None);
        there.note(PRODUCER, &format!("d{:02}", n + 20), Transport::Http, 1, None);
    }
    here.apply("there", &there.look(), here.clock.now());
    let part = |most, after: &str| -> Vec<(String, u64)> {
        here.of(PRODUCER, most, |name| name > after, |_| true).into_iter().map(|d| (d.device, d.records)).collect()
    };
    assert_eq!(part(3, "d18"), [("d19".to_owned(), 1), ("d20".to_owned(), 2), ("d21".to_owned(), 2)]);
    assert_eq!((part(100, "").len(), part(100, "d57").len(), part(0, "").len()), (60, 2, 0));
}
