//! Loss, bursts and round-trip time of a link, learnt from the packets of one connection after the other.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// Packets after which what was seen counts for a third.
const MEMORY: f64 = 400.0;
/// Time after which it does.
const MEMORY_TIME: Duration = Duration::from_secs(60);
/// Packets until the meter says anything.
const LEAST: f64 = 150.0;
/// Weight of one run of losses in the average of runs.
const RUN_WEIGHT: f64 = 0.1;
/// Packets lost together, on average, from which losses count as bursts.
const BURSTY: f64 = 1.8;
/// Runs until anything is said of bursts.
const LEAST_RUNS: u32 = 4;
/// Packets lost together, on average, with which two runs say it: by chance so many are not.
const PLAINLY_BURSTY: f64 = 3.0;
/// Sent times of acknowledged packets that are remembered, to find the ends of a run.
const ACKED: usize = 64;

/// Measured properties of a link. One for each network, handed on from connection to connection.
#[derive(Debug, Default)]
pub struct Meter(Mutex<State>);

/// Properties of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// Share of packets lost lately; `None` while too few have been seen.
    pub loss: Option<f64>,
    /// How long most losses last that come together; `None`: they come one by one.
    pub burst: Option<Duration>,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
}

#[derive(Debug, Default)]
struct State {
    delivered: f64,
    lost: f64,
    since: Option<Instant>,
    /// The connection whose losses were counted last, and how many they were.
    counted: Option<(usize, u64)>,
    packet: f64,
    /// Seconds between packets.
    spacing: f64,
    acked: VecDeque<Instant>,
    runs: u32,
    /// Packets of a run, on average; seconds between those that got through next to it, and how much these differ.
    run_packets: f64,
    run_time: f64,
    run_spread: f64,
    /// The newest run: more of it may still be found.
    open: Option<Run>,
    rtt: Option<Duration>,
}

/// Packets lost one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// When the packets were sent that got through next to it.
    before: Instant,
    after: Instant,
    packets: f64,
}

impl Meter {
    /// The properties as of now.
    pub fn link(&self) -> Link {
        let state = self.lock();
        let packets = state.delivered + state.lost;
        let bursty = match state.runs {
            0 | 1 => false,
            2..LEAST_RUNS => state.run_packets >= PLAINLY_BURSTY,
            _ => state.run_packets >= BURSTY,
        };
        let burst = bursty.then(|| Duration::from_secs_f64((state.run_time + state.run_spread - state.spacing).max(0.001)));
        Link { loss: (packets >= LEAST).then(|| state.lost / packets), burst, rtt: state.rtt }
    }

    /// A packet was acknowledged.
    pub(super) fn acked(&self, now: Instant, sent: Instant, bytes: u64, rtt: Duration) {
        let mut state = self.lock();
        state.age(now);
        state.delivered += 1.0;
        state.rtt = Some(rtt);
        let bytes = bytes as f64;
        state.packet = if state.packet == 0.0 { bytes } else { state.packet * 0.9 + bytes * 0.1 };
        if let Some(before) = state.acked.back()
            && let Some(gap) = sent.checked_duration_since(*before)
        {
            let (gap, spacing) = (gap.as_secs_f64(), state.spacing);
            // Pauses say nothing of the packets around them.
            state.spacing = if spacing == 0.0 { gap } else { spacing * 0.95 + gap.min(spacing * 4.0) * 0.05 };
        }
        if state.acked.len() == ACKED {
            state.acked.pop_front();
        }
        state.acked.push_back(sent);
    }

    /// How many packets a connection has lost so far, by its own count, which leaves out what were only probes.
    pub(crate) fn count(&self, connection: usize, lost: u64) {
        let mut state = self.lock();
        let before = state.counted.filter(|(id, _)| *id == connection).map_or(0, |(_, before)| before);
        state.counted = Some((connection, lost));
        state.lost += lost.saturating_sub(before) as f64;
    }

    /// Packets were found lost together, the last of which was sent at `sent`. Tells bursts; how many were lost in all is
    /// for [`Meter::count`].
    pub(super) fn lost(&self, sent: Instant, bytes: u64) {
        let mut state = self.lock();
        let found = if state.packet > 0.0 { (bytes as f64 / state.packet).round().max(1.0) } else { 1.0 };
        let before = state.acked.iter().copied().filter(|acked| *acked < sent).max();
        let after = state.acked.iter().copied().filter(|acked| *acked > sent).min();
        let (Some(before), Some(after)) = (before, after) else { return };
        // Of those that one acknowledgement showed only the last ones need have been sent one after the other.
        let room = (sent - before).as_secs_f64() / state.spacing.max(1e-6);
        let packets = found.min(room.round().max(1.0));
        match &mut state.open {
            // QUIC finds the packets of a run one after the other (RFC 9002, section 6.1.1).
            Some(run) if run.before < sent && sent < run.after => run.packets += packets,
            open => {
                if let Some(run) = open.replace(Run { before, after, packets }) {
                    state.close(run);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl State {
    /// Lets what was seen fade, by packets and by time.
    fn age(&mut self, now: Instant) {
        let elapsed = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.since = Some(now);
        let keep = (-1.0 / MEMORY - elapsed.as_secs_f64() / MEMORY_TIME.as_secs_f64()).exp();
        self.delivered *= keep;
        self.lost *= keep;
    }

    /// Takes a run into the averages.
    fn close(&mut self, run: Run) {
        self.runs = self.runs.saturating_add(1);
        let weight = RUN_WEIGHT.max(1.0 / f64::from(self.runs));
        self.run_packets += (run.packets - self.run_packets) * weight;
        if run.packets >= BURSTY || self.run_time == 0.0 {
            let time = (run.after - run.before).as_secs_f64();
            let off = (time - self.run_time).abs();
            self.run_time += (time - self.run_time) * if self.run_time == 0.0 { 1.0 } else { weight };
            // The first one's distance from nothing says nothing.
            self.run_spread += (off.min(self.run_time) - self.run_spread) * if self.runs > 1 { weight } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    const PACKET: u64 = 100;

    /// Sends `count` packets 10 ms apart; `is_lost` says which are lost. Losses are noticed three packets later.
    fn run(meter: &Meter, start: Instant, count: u32, mut is_lost: impl FnMut(u32) -> bool) -> Instant {
        let at = |n: u32| start + Duration::from_millis(10) * n;
        let (mut open, mut lost, connection) = (Vec::<u32>::new(), 0, fastrand::usize(..));
        for n in 0..count {
            let now = at(n) + RTT;
            if is_lost(n) {
                open.push(n);
                continue;
            }
            meter.acked(now, at(n), PACKET, RTT);
            let noticed: Vec<u32> = open.extract_if(.., |lost| *lost + 3 <= n).collect();
            if let Some(last) = noticed.last() {
                lost += noticed.len() as u64;
                meter.lost(at(*last), PACKET * noticed.len() as u64);
                meter.count(connection, lost);
            }
        }
        at(count)
    }

    #[test]
    fn a_clean_link_has_no_loss_and_no_bursts() {
        let meter = Meter::default();
        assert_eq!(meter.link(), Link::default());
        run(&meter, Instant::now(), 1000, |_| false);
        assert_eq!(meter.link(), Link { loss: Some(0.0), burst: None, rtt: Some(RTT) });
    }

    #[test]
    fn random_loss_is_measured_and_is_no_burst() {
        let meter = Meter::default();
        let mut random = fastrand::Rng::with_seed(1);
        let start = run(&meter, Instant::now(), 3000, |_| random.f64() < 0.05);
        let link = meter.link();
        assert!((0.02..0.09).contains(&link.loss.unwrap()), "{link:?}");
        assert_eq!(link.burst, None);
        run(&meter, start, 4000, |_| false);
        assert!(meter.link().loss.unwrap() < 0.002, "it is forgotten");
    }

    #[test]
    fn bursts_are_told_from_random_loss() {
        let meter = Meter::default();
        // Four packets in eighty: outages of 40 ms.
        run(&meter, Instant::now(), 3000, |n| n % 80 < 4 && n > 80);
        let link = meter.link();
        assert!((0.03..0.07).contains(&link.loss.unwrap()), "{link:?}");
        let burst = link.burst.unwrap();
        assert!((Duration::from_millis(40)..Duration::from_millis(70)).contains(&burst), "{link:?}");
    }
}
