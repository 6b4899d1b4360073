//! No room on the disk.

use super::*;

#[test]
fn a_full_disk_loses_nothing_and_goes_on_when_there_is_room() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::Block, World::new()).unwrap();
    device.push(&"a".repeat(1000));
    device.settle_down().unwrap();
    disk.set_room(disk.bytes().len() as u64);
    let mut full = None;
    for n in 0..30 {
        device.push(&n.to_string().repeat(100_000));
        if let Err(Refusal::Later(error)) = device.save(false) {
            full = Some(error);
            break;
        }
    }
    assert!(matches!(full, Some(Error::NoSpace(_))), "{full:?}");
    let last = device.outbox.last();
    assert!(!device.outbox.is_saved(last) && device.outbox.is_saved(Seq(1)));
    assert!(matches!(device.save(false), Err(Refusal::Later(Error::NoSpace(_)))));
    assert!(device.outbox.shed().is_empty(), "nothing is dropped under this policy");
    disk.set_room(u64::MAX);
    device.save(false).unwrap();
    assert!(device.outbox.is_saved(last));
    let here = device.items();
    drop(device);
    assert_eq!(Device::open(&disk, Policy::Block, World::new()).unwrap().items(), here);
}

#[test]
fn a_full_disk_makes_the_oldest_give_way_where_the_policy_says_so() {
    let disk = Disk::new();
    let mut device = Device::open(&disk, Policy::DropOldest, World::new()).unwrap();
    for n in 0..10 {
        device.push(&n.to_string().repeat(100_000));
        device.settle_down().unwrap();
    }
    disk.set_room(disk.bytes().len() as u64);
    for n in 10..30 {
        device.push(&n.to_string().repeat(50_000));
        let mut tries = 0;
        while device.save(false).is_err() {
            assert!(!device.outbox.shed().is_empty(), "nothing is left to drop");
            tries += 1;
            assert!(tries < 20);
        }
    }
    assert!(device.outbox.is_saved(Seq(30)) && device.outbox.contains(Seq(30)));
    assert!(device.outbox.abandoned().contains(1));
}
