//! Files that were cut or altered behind the outbox's back.

use super::*;

/// A file after a good end, or after none, with twenty records; and what it held.
fn file(closing: bool) -> (Vec<u8>, World, u64) {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    device.settle_down().unwrap();
    for n in 0..20 {
        device.push(&format!("{{\"n\":{n},\"fill\":\"{}\"}}", "y".repeat(n * 97)));
        if n % 4 == 3 {
            device.save(false).unwrap();
        }
    }
    device.send(9);
    device.outbox.ack(&"1-3,5".parse().unwrap());
    device.save(closing).unwrap();
    let (epoch, world) = (device.outbox.epoch().0, std::mem::take(&mut device.world));
    if closing {
        drop(device);
        return (disk.bytes(), world, epoch);
    }
    (disk.bytes(), world, epoch)
}

/// Opens a damaged file: it must hold a part of what it held, or begin a new life; and go on.
fn survives(bytes: Vec<u8>, world: &World, epoch: u64, place: &str) -> (usize, bool) {
    let disk = Disk::with(bytes);
    let device = Device::open(&disk, Policy::Block, world.clone()).unwrap_or_else(|error| panic!("{place}: {error}"));
    let kept = device.items();
    let same = device.outbox.epoch().0 == epoch;
    if !same {
        assert!(kept.is_empty(), "{place}: records under a new epoch");
    }
    for item in &kept {
        let n = item.seq.0 - 1;
        let json = format!("{{\"n\":{n},\"fill\":\"{}\"}}", "y".repeat(usize::try_from(n).unwrap() * 97));
        assert_eq!(item.json, json, "{place}");
    }
    drop(device);
    check(&disk, world.clone(), &BTreeMap::new(), None, 2, place);
    (kept.len(), same)
}

#[test]
fn a_cut_file_is_recovered_or_begun_anew() {
    for closing in [true, false] {
        let (bytes, world, epoch) = file(closing);
        let (_, same) = survives(bytes.clone(), &world, epoch, "whole");
        assert!(same);
        for part in 0..60 {
            let length = bytes.len() * part / 60;
            survives(bytes[..length].to_vec(), &world, epoch, &format!("cut to {length}, closing {closing}"));
        }
        for length in [1, 9, 63, 64, 65, 319, 320, 4095, 4096, 4097, bytes.len() - 1] {
            survives(bytes[..length].to_vec(), &world, epoch, &format!("cut to {length}, closing {closing}"));
        }
    }
}

#[test]
fn flipped_bits_are_found() {
    let (mut kept_some, mut renewed) = (0, 0);
    for closing in [true, false] {
        let (bytes, world, epoch) = file(closing);
        let mut random = fastrand::Rng::with_seed(3);
        // Where nothing is written a flip is no damage: only written bytes and the head are worth it.
        let written: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0 || at < 512).collect();
        for _ in 0..120 {
            let mut bytes = bytes.clone();
            let at = written[random.usize(..written.len())];
            bytes[at] ^= 1 << random.u8(0..8);
            let (kept, same) = survives(bytes, &world, epoch, &format!("flip at {at}, closing {closing}"));
            kept_some += usize::from(same && kept < 16);
            renewed += usize::from(!same);
        }
    }
    assert!(kept_some > 0 && renewed > 0, "{kept_some} kept a part, {renewed} were begun anew");
}

#[test]
fn a_damaged_record_is_lost_alone_and_counted() {
    let (bytes, _, epoch) = file(true);
    let needle = b"{\"n\":12,";
    let at = bytes.windows(needle.len()).rposition(|window| window == needle).unwrap();
    let mut bytes = bytes;
    // Every copy of it, for the newest may not be the last in the file.
    for start in 0..=at {
        if bytes[start..].starts_with(needle) {
            bytes[start + 5] = b'9';
        }
    }
    let disk = Disk::with(bytes);
    let (_, loaded) = Store::open(disk.clone()).unwrap();
    assert_eq!((loaded.lost, loaded.items.len(), loaded.reservation.epoch.0), (1, 15, epoch));
    assert!(loaded.reservation.abandoned.contains(13) && !loaded.reservation.abandoned.contains(14));
    assert_eq!(disk.files(), 2, "the damaged file is kept");
    let (_, again) = Store::open(disk).unwrap();
    assert_eq!((again.lost, again.items.len(), again.doubtful), (0, 15, false));
    assert_eq!(again.reservation, loaded.reservation);
}

#[test]
fn a_file_that_rots_while_it_is_in_use_is_written_anew() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    for n in 0..4 {
        device.push(&n.to_string());
    }
    device.settle_down().unwrap();
    disk.set_room(0);
    device.push("{}");
    assert!(matches!(device.save(false), Err(Refusal::Later(_))));
    disk.set_room(u64::MAX);
    disk.overwrite(b'z');
    assert!(matches!(device.save(false), Err(Refusal::Restart)));
    assert!(!device.outbox.is_saved(Seq(1)), "a copy in memory is not enough");
    device.settle_down().unwrap();
    let (here, epoch) = (device.items(), device.outbox.epoch());
    assert_eq!(here.len(), 5);
    drop(device);
    let device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    assert_eq!((device.items(), device.outbox.epoch()), (here, epoch));
    assert_eq!(disk.files(), 2, "the damaged file is kept");
}
