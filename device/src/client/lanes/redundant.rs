//! Queue of redundant transmissions: each is piggybacked on a later record or goes standalone, within a byte budget. No I/O.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use motience_proto::model::{RangeSet, Seq};
use tokio::time::Instant;

use crate::link::{
    Meter, Report, Settings,
    plan::{PACKET, Plan, Records, SMALL, plan},
};

/// Records queued at once from which they are a flood: it is never repeated.
const FLOOD: usize = 16;
/// Records with redundant transmissions to come; beyond it the oldest gets no more.
const MAX_PENDING: usize = 512;
/// Bytes of redundant transmissions that may be sent in advance of the budget's share, or be saved up.
const SAVED: f64 = 4096.0;
/// Least and most time that a redundant transmission waits for a record to piggyback on, beyond its due time.
const WAIT: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(100)];
/// How much too soon a redundant transmission may be that goes in a packet between records: timers are not exact, and the packet serves all.
const TOO_SOON: Duration = Duration::from_millis(2);
/// Most bytes of redundant transmissions in one packet.
const MAX_PIGGYBACK: usize = 900;
/// Weight of one record in the averages.
const WEIGHT: f64 = 0.1;

/// Redundant transmissions to come.
#[derive(Debug)]
pub(super) struct Redundant {
    budget: f64,
    plan: Plan,
    pending: VecDeque<Pending>,
    /// Bytes that redundant transmissions may take now.
    credit: f64,
    last: Option<Instant>,
    /// Bytes of the packet that records are written into.
    packet: usize,
    /// Seconds between records, and bytes of one.
    interval: f64,
    bytes: f64,
    first_bytes: u64,
    redundant_bytes: u64,
    redundant_sent: u64,
}

/// A record and its redundant transmissions to come.
#[derive(Debug)]
struct Pending {
    seq: Seq,
    frame: Bytes,
    left: u8,
    /// Earliest time of the next piggybacked transmission, and time at which it goes standalone.
    due: Instant,
    deadline: Instant,
}

impl Redundant {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            budget: (settings.budget - 1.0).max(0.0),
            plan: Plan::default(),
            pending: VecDeque::new(),
            credit: SAVED,
            last: None,
            packet: 0,
            interval: 0.0,
            bytes: 0.0,
            first_bytes: 0,
            redundant_bytes: 0,
            redundant_sent: 0,
        }
    }

    /// Records that are sent together now.
    pub(super) fn begin(&mut self, now: Instant, count: usize, settings: &Settings, meter: &Meter) {
        if let Some(last) = self.last.replace(now) {
            let each = (now - last).as_secs_f64() / count as f64;
            self.interval += (each - self.interval) * if self.interval == 0.0 { 1.0 } else { WEIGHT };
        }
        self.plan = if count >= FLOOD {
            Plan::default()
        } else {
            let records = Records { interval: Duration::from_secs_f64(self.interval.clamp(0.0, 3600.0)), bytes: self.bytes.max(1.0) };
            plan(settings, &meter.link(), records)
        };
        self.packet = PACKET;
    }

    /// A record's frame was written for the first time.
    pub(super) fn sent(&mut self, now: Instant, seq: Seq, frame: &[u8]) {
        self.bytes += (frame.len() as f64 - self.bytes) * if self.bytes == 0.0 { 1.0 } else { WEIGHT };
        self.packet += frame.len();
        if self.plan.redundancy == 0 || frame.len() > MAX_PIGGYBACK {
            return;
        }
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        let (due, deadline) = self.times(now, None);
        self.pending.push_back(Pending { seq, frame: Bytes::copy_from_slice(frame), left: self.plan.redundancy, due, deadline });
    }

    /// Appends the redundant transmissions that are due to a stream which is sent now anyway, with the last of the records that were begun.
    pub(super) fn piggyback(&mut self, now: Instant, out: &mut BytesMut) {
        self.first_bytes += self.packet as u64;
        self.credit = (self.credit + self.packet.max(SMALL) as f64 * self.budget).min(SAVED * self.budget.min(1.0));
        self.take(now, |pending| pending.due < now, MAX_PIGGYBACK.saturating_sub(out.len()), out);
    }

    /// Time at which the next redundant transmissions go standalone, unless a record takes them along.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.deadline).min()
    }

    /// The redundant transmissions that go standalone now.
    pub(super) fn standalone(&mut self, now: Instant) -> BytesMut {
        let mut out = BytesMut::new();
        if self.credit < PACKET as f64 {
            // Those that were to go now are given up; a record may still take the others along.
            self.pending.retain(|pending| pending.deadline > now);
            return out;
        }
        self.take(now, |pending| pending.deadline <= now || pending.due < now, MAX_PIGGYBACK, &mut out);
        if !out.is_empty() {
            self.spend(PACKET);
        }
        out
    }

    /// Cancels the redundant transmissions of acknowledged records.
    pub(super) fn acked(&mut self, ranges: &RangeSet) {
        self.pending.retain(|pending| !ranges.contains(pending.seq.0));
    }

    pub(super) fn report(&self, report: Report) -> Report {
        Report {
            redundancy: self.plan.redundancy,
            standalone_after_ms: self.plan.standalone.map(|standalone| standalone.as_secs_f64() * 1000.0),
            spread_ms: self.plan.spread.as_secs_f64() * 1000.0,
            first_bytes: self.first_bytes,
            redundant_bytes: self.redundant_bytes,
            redundant_sent: self.redundant_sent,
            ..report
        }
    }

    /// Moves redundant transmissions into `out`, the oldest first, as far as room and budget go.
    fn take(&mut self, now: Instant, wanted: impl Fn(&Pending) -> bool, mut room: usize, out: &mut BytesMut) {
        let (mut spent, mut credit, mut waiting) = (0, self.credit, std::mem::take(&mut self.pending));
        for pending in waiting.iter_mut().filter(|pending| wanted(pending)) {
            let size = pending.frame.len();
            if size > room || credit < size as f64 {
                // The frame waits for the next chance, but not for ever.
                if pending.deadline <= now {
                    pending.left = 0;
                }
                continue;
            }
            out.extend_from_slice(&pending.frame);
            (room, credit, spent) = (room - size, credit - size as f64, spent + size);
            self.redundant_sent += 1;
            pending.left -= 1;
            (pending.due, pending.deadline) = self.times(now, Some(pending.deadline));
        }
        waiting.retain(|pending| pending.left > 0);
        self.pending = waiting;
        self.spend(spent);
    }

    /// When the next redundant transmission of a record is due that is sent now, and its last chance. `before`: that of the one before, if there was one.
    fn times(&self, now: Instant, before: Option<Instant>) -> (Instant, Instant) {
        let Plan { standalone, spread, .. } = self.plan;
        match (standalone, before) {
            (Some(standalone), None) if spread.is_zero() => return (now + standalone, now + standalone),
            (Some(standalone), before) if !spread.is_zero() => {
                let at = before.map_or(now + standalone, |before| (before + spread).max(now + TOO_SOON));
                return (at - TOO_SOON, at);
            }
            _ => {}
        }
        let wait = Duration::from_secs_f64((self.interval * 1.5).clamp(WAIT[0].as_secs_f64(), WAIT[1].as_secs_f64()));
        // Rather a little too soon than a whole record too late.
        let early = Duration::from_secs_f64((self.interval / 2.0).min(WAIT[1].as_secs_f64()));
        let due = now + spread.saturating_sub(early);
        (due, due + wait)
    }

    fn spend(&mut self, bytes: usize) {
        self.credit -= bytes as f64;
        self.redundant_bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Redundancy;

    const FRAME: [u8; 25] = [7; 25];

    struct Sender {
        redundant: Redundant,
        settings: Settings,
        meter: Meter,
        now: Instant,
        seq: u64,
    }

    impl Sender {
        fn new(redundant: u8, budget: f64) -> Self {
            let settings = Settings { redundancy: Redundancy::Always(redundant), budget, ..Settings::default() };
            Self { redundant: Redundant::new(settings), settings, meter: Meter::default(), now: Instant::now(), seq: 0 }
        }

        /// Sends a record after `wait`; returns how many redundant transmissions piggyback on it.
        fn send(&mut self, wait: Duration) -> usize {
            self.now += wait;
            self.seq += 1;
            self.redundant.begin(self.now, 1, &self.settings, &self.meter);
            self.redundant.sent(self.now, Seq(self.seq), &FRAME);
            let mut out = BytesMut::new();
            self.redundant.piggyback(self.now, &mut out);
            out.len() / FRAME.len()
        }
    }

    #[test]
    fn redundant_transmissions_piggyback_on_the_next_records() {
        let mut sender = Sender::new(2, 3.0);
        let piggybacked: Vec<_> = (0..5).map(|_| sender.send(Duration::from_millis(10))).collect();
        assert_eq!(piggybacked, [0, 1, 2, 2, 2]);
    }

    #[test]
    fn none_piggybacks_on_its_own_record_and_a_large_one_waits_for_room() {
        let mut sender = Sender::new(1, 3.0);
        for n in 1..4 {
            sender.now += Duration::from_millis(10);
            sender.redundant.begin(sender.now, 1, &sender.settings, &sender.meter);
            sender.redundant.sent(sender.now, Seq(n), &[7; 500]);
            // The stream holds the record itself already: there is no room for another of that size.
            let mut out = BytesMut::from(&[7; 500][..]);
            sender.redundant.piggyback(sender.now, &mut out);
            assert_eq!(out.len(), 500);
        }
        let deadline = sender.redundant.deadline().unwrap();
        assert_eq!(sender.redundant.standalone(deadline).len(), 500);
    }

    #[test]
    fn one_packet_between_two_records_takes_those_of_all_that_are_due() {
        let (mut sender, ms) = (Sender::new(3, 3.0), Duration::from_millis);
        let mut packets = Vec::new();
        for n in 1..=8 {
            sender.now += ms(10);
            sender.redundant.begin(sender.now, 1, &sender.settings, &sender.meter);
            sender.redundant.plan = Plan { redundancy: 3, standalone: Some(ms(13)), spread: ms(10) };
            sender.redundant.sent(sender.now, Seq(n), &FRAME);
            let mut out = BytesMut::new();
            sender.redundant.piggyback(sender.now, &mut out);
            assert!(out.is_empty(), "those of the records before are not due yet");
            while let Some(deadline) = sender.redundant.deadline().filter(|deadline| *deadline < sender.now + ms(10)) {
                // Timers are late.
                packets.push(sender.redundant.standalone(deadline + Duration::from_micros(n * 100)).len() / FRAME.len());
            }
        }
        assert_eq!(packets, [1, 2, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn one_that_nothing_takes_along_goes_standalone() {
        let mut sender = Sender::new(1, 3.0);
        sender.send(Duration::from_millis(10));
        sender.send(Duration::from_millis(10));
        let deadline = sender.redundant.deadline().unwrap();
        assert!(deadline > sender.now && deadline < sender.now + Duration::from_millis(100));
        assert_eq!(sender.redundant.standalone(deadline).len(), FRAME.len());
        assert_eq!(sender.redundant.deadline(), None);
    }

    #[test]
    fn what_is_acknowledged_is_not_repeated() {
        let mut sender = Sender::new(4, 3.0);
        sender.send(Duration::from_millis(10));
        sender.redundant.acked(&"1".parse().unwrap());
        assert_eq!(sender.send(Duration::from_millis(10)), 0);
    }

    #[test]
    fn the_budget_is_kept() {
        for budget in [1.0, 1.1, 1.3, 2.0] {
            let mut sender = Sender::new(4, budget);
            for n in 0..5000 {
                sender.send(Duration::from_millis(if n % 3 == 0 { 40 } else { 1 }));
                if sender.redundant.deadline().is_some_and(|deadline| deadline <= sender.now + Duration::from_millis(1)) {
                    sender.redundant.standalone(sender.now + Duration::from_millis(1));
                }
            }
            let first = 5000.0 * SMALL as f64;
            let redundant = sender.redundant.redundant_bytes as f64;
            assert!(redundant <= first * (budget - 1.0) + SAVED + 1000.0, "{budget}: {redundant} over {first}");
        }
    }

    #[test]
    fn a_flood_is_not_repeated() {
        let mut sender = Sender::new(2, 3.0);
        sender.redundant.begin(sender.now, FLOOD, &sender.settings, &sender.meter);
        sender.redundant.sent(sender.now, Seq(1), &FRAME);
        assert_eq!(sender.redundant.deadline(), None);
    }
}
