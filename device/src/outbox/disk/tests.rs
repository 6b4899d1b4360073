//! The outbox on a disk that loses power; fills up ([`full`]); rots ([`rot`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use motience_proto::model::{RangeSet, Seq};

use super::{sim::Disk, *};
use crate::{
    client::Lane,
    outbox::{Config, Item, Outbox, Policy, Urgency},
};

mod full;
mod rot;

const CREDIT: u64 = u64::MAX;

/// A device: the outbox, its file, and what the world has seen of it.
struct Device {
    outbox: Outbox,
    store: Store,
    /// Every record ever sent on a connection or enqueued, by life and number: two with one name is the fault of faults.
    world: World,
}

/// Content of the records of each name.
type World = BTreeMap<(u64, u64), Bytes>;

impl Device {
    fn open(disk: &Disk, policy: Policy, world: World) -> Result<Self, Error> {
        let (store, loaded) = Store::open(disk.clone())?;
        let outbox = Outbox::restore(Config { policy, records: 40, ..Config::default() }, loaded);
        let mut device = Self { outbox, store, world };
        device.outbox.open();
        for seq in device.seqs() {
            device.show(seq);
        }
        Ok(device)
    }

    fn seqs(&self) -> Vec<u64> {
        self.items().iter().map(|item| item.seq.0).collect()
    }

    fn items(&self) -> Vec<Item> {
        let mut next = 0;
        std::iter::from_fn(|| {
            let item = self.outbox.items.from(next)?.clone();
            next = item.seq.0 + 1;
            Some(item)
        })
        .collect()
    }

    /// The record may be in the log under its name: no other may ever have it.
    fn show(&mut self, seq: u64) {
        let json = self.outbox.items.from(seq).filter(|item| item.seq.0 == seq).unwrap().json.clone();
        let known = self.world.entry((self.outbox.epoch().0, seq)).or_insert_with(|| json.clone());
        assert_eq!(*known, json, "number {seq} was used twice");
    }

    fn push(&mut self, text: &str) -> u64 {
        self.outbox.push(Lane::Ordered, Bytes::copy_from_slice(text.as_bytes())).unwrap().0.0
    }

    /// Gives records to a connection; which.
    fn send(&mut self, count: usize) -> Vec<u64> {
        let sent: Vec<u64> = (0..count).map_while(|_| self.outbox.send(CREDIT)).map(|item| item.seq.0).collect();
        sent.iter().for_each(|&seq| self.show(seq));
        sent
    }

    fn save(&mut self, closing: bool) -> Result<(), Refusal> {
        let group = self.outbox.collect(closing);
        let result = self.store.save(&group);
        match &result {
            Ok(()) => self.outbox.saved(&group.reservation),
            Err(Refusal::Restart) => {
                self.outbox.failed(&group);
                self.outbox.restart();
            }
            Err(Refusal::Later(_)) => self.outbox.failed(&group),
        }
        result
    }

    /// Writes until the disk has everything that has no time.
    fn settle_down(&mut self) -> Result<(), Refusal> {
        while self.outbox.urgency() > Urgency::Lazy {
            self.save(false)?;
        }
        Ok(())
    }
}

/// A new epoch takes the place of the old one in one step, whenever the power is cut, and nothing is sent under it before.
#[test]
fn a_new_epoch_is_on_disk_before_it_is_used() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    for n in 0..4 {
        device.push(&format!("{{\"n\":{n}}}"));
    }
    device.settle_down().unwrap();
    let (old, items) = (device.outbox.epoch(), device.items());
    device.outbox.renew(&[100].into_iter().collect());
    let new = device.outbox.epoch();
    assert!(old != new && device.send(9).is_empty());
    device.save(false).unwrap();
    assert!(device.send(9).is_empty(), "the newest commit alone might be damaged");
    device.settle_down().unwrap();
    assert_eq!(device.send(9), [1, 2, 3, 4]);
    drop(device);
    let device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    assert_eq!((device.outbox.epoch(), device.items()), (new, items));
}

/// A scripted life: pushes, sends, acknowledgements, commits. Stops where the disk does. `durable` holds the records that
/// were enqueued and not acknowledged.
fn live(disk: &Disk, world: World, durable: &mut BTreeMap<u64, Bytes>, epoch: &mut Option<u64>) -> World {
    let Ok(mut device) = Device::open(disk, Policy::Block, world) else { return World::new() };
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..12 {
        for n in 0..random.usize(1..6) {
            device.push(&format!("{{\"round\":{round},\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(random.usize(0..3000))));
        }
        let sent = device.send(3);
        if round % 3 == 2 {
            let acked: RangeSet = sent.iter().copied().collect();
            device.outbox.ack(&acked);
            // They may be in the file after a cut; what is sent again is no fault.
            sent.iter().for_each(|seq| drop(durable.remove(seq)));
        }
        if device.save(false).is_err() {
            break;
        }
        *epoch = Some(device.outbox.epoch().0);
        durable.extend(device.items().into_iter().map(|item| (item.seq.0, item.json)));
        // Not all: those at the end are not on the way when the power goes.
        let all = device.outbox.len().saturating_sub(2);
        device.send(all);
    }
    std::mem::take(&mut device.world)
}

/// Everything that was enqueued is there, in order, under its name; and new numbers are new. `starts`: with this one.
fn check(disk: &Disk, world: World, durable: &BTreeMap<u64, Bytes>, epoch: Option<u64>, starts: usize, place: &str) {
    let mut device = Device::open(disk, Policy::Block, world).unwrap();
    let here: BTreeMap<u64, Bytes> = device.items().into_iter().map(|item| (item.seq.0, item.json)).collect();
    for (seq, json) in durable {
        assert_eq!(here.get(seq), Some(json), "{place}: record {seq} was enqueued");
    }
    if let Some(epoch) = epoch {
        assert_eq!(device.outbox.epoch().0, epoch, "{place}");
    }
    let used = device.world.keys().filter(|(epoch, _)| *epoch == device.outbox.epoch().0).map(|(_, seq)| *seq).max();
    device.settle_down().unwrap();
    let new = device.push("{\"new\":true}");
    assert!(new > used.unwrap_or(0), "{place}");
    device.send(usize::MAX);
    device.outbox.rewind();
    let reported = device.outbox.report_abandoned().unwrap_or_default();
    let mut all = reported.clone();
    let epoch = device.outbox.epoch().0;
    for (_, seq) in device.world.keys().filter(|(of, _)| *of == epoch) {
        all.insert(*seq);
    }
    assert!(all.max() == Some(new) && all.ranges() <= starts, "{place}: a hole is left in {all}");
    assert!(here.keys().all(|&seq| !reported.contains(seq)), "{place}: a record that is here is told as skipped");
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_that_was_taken_and_uses_no_number_twice() {
    let whole = Disk::new();
    live(&whole, World::new(), &mut BTreeMap::new(), &mut None);
    let steps = whole.steps();
    assert!(steps > 50);
    for fuse in 0..=steps {
        let (disk, mut durable, mut epoch) = (Disk::new(), BTreeMap::new(), None);
        disk.set_fuse(fuse);
        let world = live(&disk, World::new(), &mut durable, &mut epoch);
        for seed in 0..4 {
            let mut random = fastrand::Rng::with_seed(seed * 1000 + fuse as u64);
            let cut = disk.after_cut(&mut random);
            check(&cut, world.clone(), &durable, epoch, 2, &format!("step {fuse}, seed {seed}"));
        }
    }
}

#[test]
fn a_disk_that_lost_its_last_commit_may_lose_records_but_uses_no_number_twice() {
    let whole = Disk::new();
    live(&whole, World::new(), &mut BTreeMap::new(), &mut None);
    for fuse in 0..=whole.steps() {
        let disk = Disk::new();
        disk.set_fuse(fuse);
        let world = live(&disk, World::new(), &mut BTreeMap::new(), &mut None);
        check(&disk.after_lie(), world, &BTreeMap::new(), None, 2, &format!("step {fuse}"));
    }
}

#[test]
fn power_cuts_during_recovery_lose_nothing_either() {
    let first = Disk::new();
    let (mut durable, mut epoch) = (BTreeMap::new(), None);
    first.set_fuse(60);
    let world = live(&first, World::new(), &mut durable, &mut epoch);
    assert!(epoch.is_some() && !durable.is_empty());
    let mut random = fastrand::Rng::with_seed(1);
    for fuse in 0..60 {
        let disk = first.after_cut(&mut random);
        disk.set_fuse(fuse);
        let mut world = world.clone();
        if let Ok(mut device) = Device::open(&disk, Policy::Block, world.clone()) {
            // Writes between the cuts may reach the disk, too; nothing counts on them.
            if device.settle_down().is_ok() {
                device.push("{\"between\":true}");
                device.send(usize::MAX);
            }
            world = std::mem::take(&mut device.world);
        }
        check(&disk.after_cut(&mut random), world, &durable, epoch, 3, &format!("second cut at {fuse}"));
    }
}

#[test]
fn a_good_end_leaves_a_gap_and_tells_nothing_of_it() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    device.settle_down().unwrap();
    assert_eq!(device.push("{}"), 1);
    device.save(true).unwrap();
    drop(device);
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    let next = device.push("{}");
    assert!(next > 1 << 40 && device.outbox.report_abandoned().is_none(), "a copy may take the numbers between");
    assert!(device.send(9).is_empty(), "no number is given before the file leaves it open which");
    device.settle_down().unwrap();
    assert_eq!(device.send(9), [1, next]);
}

#[test]
fn what_is_settled_in_time_is_never_written() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    device.settle_down().unwrap();
    let steps = disk.steps();
    for n in 1..=3 {
        assert_eq!(device.push("{}"), n);
        device.send(1);
        device.outbox.ack(&[n].into_iter().collect());
        assert!(device.outbox.is_saved(Seq(n)));
        device.settle_down().unwrap();
    }
    assert_eq!(disk.steps(), steps);
}

#[test]
fn two_at_once_are_told_apart_by_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outbox.redb");
    let (store, _) = Store::open(OnDisk(path.clone())).unwrap();
    let error = Store::open(OnDisk(path.clone())).unwrap_err();
    assert!(matches!(&error, Error::InUse(_)) && error.to_string().contains("in use by another process"), "{error}");
    drop(store);
    Store::open(OnDisk(path)).unwrap();
}
