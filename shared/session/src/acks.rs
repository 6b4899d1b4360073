//! Acknowledgements on their way to a device: each waits until its batch is in the log, and on a slow link a moment longer for those of the next
//! records, since a packet for each costs such a link as much as the records do.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use motience_proto::model::RangeSet;
use motience_relay::Ticket;

use super::batch::Receipt;

/// Share of a round trip that an acknowledgement may wait. A device with one record under way sends the next one a round trip later, and never waits.
const HOLD: f64 = 0.45;
/// Longest wait. QUIC's own acknowledgements wait for up to 25 ms (RFC 9000, section 18.2), and go in the same packet.
const LONGEST: Duration = Duration::from_millis(22);
/// Shorter ones spare nothing.
const SHORTEST: Duration = Duration::from_millis(5);
/// Numbers that wait for no more: a device that sends so much needs its credit back.
const ENOUGH: u64 = 8;

/// How long an acknowledgement may wait on a link of this round-trip time.
fn hold(rtt: Duration) -> Duration {
    let hold = rtt.mul_f64(HOLD).min(LONGEST);
    if hold < SHORTEST { Duration::ZERO } else { hold }
}

/// Numbers of a device's records that it was not told of yet.
#[derive(Debug, Default)]
pub(super) struct AckQueue {
    /// Those of batches that are not committed.
    waiting: BTreeMap<Ticket, RangeSet>,
    /// Those that are in the log.
    committed: RangeSet,
    /// When it is told of them.
    due: Option<Instant>,
    /// When a batch was committed last.
    last: Option<Instant>,
    /// The device sends no more.
    ending: bool,
}

impl AckQueue {
    /// Keeps the numbers of a batch until its ticket is committed.
    pub(super) fn add(&mut self, receipt: Receipt) {
        self.waiting.insert(receipt.ticket, receipt.numbers);
    }

    /// All batches up to this ticket are committed. `rtt`: the link's round-trip time.
    pub(super) fn commit(&mut self, up_to: Ticket, now: Instant, rtt: impl FnOnce() -> Duration) {
        let later = self.waiting.split_off(&Ticket(up_to.0 + 1));
        let committed = std::mem::replace(&mut self.waiting, later);
        if committed.is_empty() {
            return;
        }
        for range in committed.values().flat_map(RangeSet::iter) {
            self.committed.insert_range(range);
        }
        let last = self.last.replace(now);
        if self.ending || self.committed.numbers() >= ENOUGH {
            self.due = Some(now);
        } else if self.due.is_none() {
            let hold = hold(rtt());
            // After a longer pause nothing is likely to come that would be worth waiting for.
            let soon = last.is_some_and(|last| now - last < hold);
            self.due = Some(if soon { now + hold } else { now });
        }
    }

    /// The device sends no more, and waits for the last ones.
    pub(super) fn end(&mut self) {
        self.ending = true;
        self.due = self.due.map(|due| due.min(Instant::now()));
    }

    /// When something is to be taken.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes the numbers that the device is told of now. `joined`: something else goes to it anyway.
    pub(super) fn take(&mut self, now: Instant, joined: bool) -> RangeSet {
        if self.due.is_none_or(|due| due > now && !joined) {
            return RangeSet::new();
        }
        self.due = None;
        std::mem::take(&mut self.committed)
    }

    /// Batches that wait for their commit.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Duration = Duration::from_millis(50);

    struct Device {
        acks: AckQueue,
        start: Instant,
        sent: u64,
    }

    impl Device {
        fn new() -> Self {
            Self { acks: AckQueue::default(), start: Instant::now(), sent: 0 }
        }

        /// So many records are committed so many milliseconds after the start, over a link of this round-trip time; the numbers that are told at once.
        fn commits(&mut self, count: u64, at: u64, rtt: Duration) -> String {
            let ticket = Ticket(self.sent);
            let numbers = (self.sent + 1..=self.sent + count).collect();
            self.sent += count;
            self.acks.add(Receipt { ticket, numbers, refused: Vec::new() });
            let now = self.start + Duration::from_millis(at);
            self.acks.commit(ticket, now, || rtt);
            self.acks.take(now, false).to_string()
        }

        fn waits(&mut self, at: u64) -> String {
            self.acks.take(self.start + Duration::from_millis(at), false).to_string()
        }
    }

    #[test]
    fn records_in_quick_succession_share_an_acknowledgement_on_a_slow_link() {
        let mut device = Device::new();
        assert_eq!(device.commits(1, 0, LINK), "1", "nothing says that more will come");
        assert_eq!([10, 20, 30].map(|at| device.commits(1, at, LINK)), ["", "", ""]);
        assert_eq!(device.acks.due(), Some(device.start + Duration::from_millis(32)));
        assert_eq!(device.waits(31), "");
        assert_eq!(device.waits(32), "2-4");
        assert_eq!((device.acks.due(), device.waits(60)), (None, String::new()));
    }

    #[test]
    fn nothing_waits_on_a_fast_link_or_after_a_pause_or_in_bulk() {
        let mut device = Device::new();
        assert_eq!([0, 1, 2].map(|at| device.commits(1, at, Duration::from_millis(8))), ["1", "2", "3"]);
        assert_eq!([50, 100, 150].map(|at| device.commits(1, at, LINK)), ["4", "5", "6"], "one record under way");
        assert_eq!(device.commits(8, 151, LINK), "7-14");
        assert_eq!(device.commits(7, 152, LINK), "");
        assert_eq!(device.commits(1, 153, LINK), "15-22");
    }

    #[test]
    fn what_goes_to_the_device_anyway_takes_them_along_and_its_end_waits_for_nothing() {
        let mut device = Device::new();
        assert_eq!([0, 10].map(|at| device.commits(1, at, LINK)), ["1", ""]);
        let now = device.start + Duration::from_millis(11);
        assert_eq!(device.acks.take(now, true).to_string(), "2");
        assert_eq!(device.acks.take(now, true).to_string(), "");
        assert_eq!(device.commits(1, 12, LINK), "");
        device.acks.end();
        assert!(device.acks.due().is_some_and(|due| due <= Instant::now()));
        assert_eq!(device.waits(13), "3");
        assert_eq!(device.commits(1, 14, LINK), "4");
    }
}
