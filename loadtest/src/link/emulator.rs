//! Decides what happens to each packet of one direction: dropped, delayed, reordered or duplicated. Seeded; the caller passes the time.
//!
//! The order is that of a real link: first the queue before the bottleneck, then loss on the way, then the way itself.

use std::time::Duration;

use fastrand::Rng;

use super::impairment::{Impairment, Loss, Outages, Rate};

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Lost on the way.
    Lost,
    /// The queue before the bottleneck was full.
    Queue,
    /// Larger than the link takes.
    Size,
}

/// A packet's time of arrival and its duplicate's, or why it was dropped. Times count from the start of the link.
pub type Outcome = Result<(Duration, Option<Duration>), Dropped>;

/// How far behind its time a packet comes that others overtake: more than the usual distance of packets.
const OVERTAKEN: Duration = Duration::from_millis(5);
/// How far behind the first a double comes.
const DOUBLE: Duration = Duration::from_millis(1);
/// Jitter is at most this many times its mean.
const MAX_JITTER: u32 = 8;

/// One direction's generator.
#[derive(Debug)]
pub struct Emulator {
    impairment: Impairment,
    rng: Rng,
    bottleneck: Duration,
    latest: Duration,
    bad: Spells,
    outage: Spells,
}

impl Emulator {
    /// An emulator from `now` on.
    #[must_use]
    pub fn new(impairment: Impairment, seed: u64, now: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let spells = |rng: &mut Rng, good, bad| Spells::new(rng.fork(), now, good, bad);
        let never = (Duration::MAX, Length::Fixed(Duration::ZERO));
        let (good, length) = match impairment.loss {
            Loss::Bursts(b) if b.share > 0.0 => {
                let good = b.length.mul_f64((1.0 - b.share) / b.share);
                (good, if b.fixed { Length::Fixed(b.length) } else { Length::Mean(b.length) })
            }
            _ => never,
        };
        let bad = spells(&mut rng, good, length);
        let (good, length) = impairment.outages.map_or(never, |o| (o.every, Length::Fixed(o.length)));
        let outage = spells(&mut rng, good, length);
        Self { impairment, rng, bottleneck: now, latest: now, bad, outage }
    }

    /// Changes the impairment from `now` on; packets in the queue of the bottleneck stay there.
    pub fn change(&mut self, impairment: Impairment, now: Duration) {
        let (bottleneck, latest) = (self.bottleneck, self.latest);
        *self = Self::new(impairment, self.rng.u64(..), now);
        (self.bottleneck, self.latest) = (bottleneck.max(now), latest);
    }

    /// Decides about a packet of so many bytes that enters the link `now`.
    pub fn decide(&mut self, bytes: usize, now: Duration) -> Outcome {
        if self.impairment.mtu.is_some_and(|mtu| bytes > usize::from(mtu)) {
            return Err(Dropped::Size);
        }
        let departs = match self.impairment.rate {
            Some(rate) => self.queue(rate, bytes as u64, now)?,
            None => now,
        };
        if self.is_lost(departs) {
            return Err(Dropped::Lost);
        }
        let departs = match (self.impairment.outages, self.outage.until(departs)) {
            (Some(Outages { held: true, .. }), Some(end)) => end,
            (Some(_), Some(_)) => return Err(Dropped::Lost),
            _ => departs,
        };
        let due = departs + self.impairment.delay + self.jitter();
        let arrives = if self.rng.f64() < self.impairment.reordered {
            due + OVERTAKEN
        } else {
            self.latest = self.latest.max(due);
            self.latest
        };
        let double = (self.rng.f64() < self.impairment.doubled).then_some(arrives + DOUBLE);
        Ok((arrives, double))
    }

    /// When the bottleneck has sent it.
    fn queue(&mut self, rate: Rate, bytes: u64, now: Duration) -> Result<Duration, Dropped> {
        let took = |bytes: u64| Duration::from_secs_f64(bytes as f64 * 8.0 / rate.bits.max(1) as f64);
        let free = self.bottleneck.max(now);
        if free > now && free - now + took(bytes) > took(rate.queue) {
            return Err(Dropped::Queue);
        }
        self.bottleneck = free + took(bytes);
        Ok(self.bottleneck)
    }

    fn is_lost(&mut self, at: Duration) -> bool {
        let probability = match self.impairment.loss {
            Loss::None => return false,
            Loss::Random(p) => p,
            Loss::Bursts(b) => {
                if self.bad.until(at).is_some() {
                    b.bad
                } else {
                    b.good
                }
            }
        };
        self.rng.f64() < probability
    }

    fn jitter(&mut self) -> Duration {
        let mean = self.impairment.jitter;
        if mean.is_zero() { mean } else { exponential(&mut self.rng, mean).min(mean * MAX_JITTER) }
    }
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Fixed(Duration),
    Mean(Duration),
}

/// Times that come again and again, exponentially distributed: they depend on nothing but the seed.
#[derive(Debug)]
struct Spells {
    rng: Rng,
    good: Duration,
    length: Length,
    start: Duration,
    end: Duration,
}

impl Spells {
    fn new(rng: Rng, now: Duration, good: Duration, length: Length) -> Self {
        let mut spells = Self { rng, good, length, start: now, end: now };
        spells.next();
        spells
    }

    fn next(&mut self) {
        if self.good == Duration::MAX {
            (self.start, self.end) = (Duration::MAX, Duration::MAX);
            return;
        }
        self.start = self.end + exponential(&mut self.rng, self.good);
        self.end = self.start
            + match self.length {
                Length::Fixed(length) => length,
                Length::Mean(mean) => exponential(&mut self.rng, mean),
            };
    }

    /// The end of the one at this time. Times never go back by more than a packet's time in the queue.
    fn until(&mut self, at: Duration) -> Option<Duration> {
        while at >= self.end {
            self.next();
        }
        (at >= self.start).then_some(self.end)
    }
}

fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    // 1 - f64() is in (0, 1], so that the logarithm is finite.
    mean.mul_f64(-(1.0 - rng.f64()).ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::impairment::Bursts;

    const MS: Duration = Duration::from_millis(1);

    /// Outcomes of packets of 100 bytes, one each millisecond.
    fn outcomes(impairment: Impairment, seed: u64, count: u32) -> Vec<Outcome> {
        let mut emulator = Emulator::new(impairment, seed, Duration::ZERO);
        (0..count).map(|n| emulator.decide(100, MS * n)).collect()
    }

    fn share_lost(outcomes: &[Outcome]) -> f64 {
        outcomes.iter().filter(|f| f.is_err()).count() as f64 / outcomes.len() as f64
    }

    #[test]
    fn the_same_seed_is_the_same_weather() {
        let impairment = Impairment { jitter: MS, loss: Loss::Random(0.1), reordered: 0.1, doubled: 0.1, ..Impairment::calm(25 * MS) };
        assert_eq!(outcomes(impairment, 1, 1000), outcomes(impairment, 1, 1000));
        assert_ne!(outcomes(impairment, 1, 1000), outcomes(impairment, 2, 1000));
    }

    #[test]
    fn a_calm_link_only_delays() {
        for (n, outcome) in (0..).zip(outcomes(Impairment::calm(25 * MS), 1, 100)) {
            assert_eq!(outcome, Ok((MS * (25 + n), None)));
        }
    }

    #[test]
    fn loss_is_as_frequent_as_asked() {
        let random = share_lost(&outcomes(Impairment::default().losing(Loss::Random(0.05)), 1, 100_000));
        assert!((0.045..0.055).contains(&random), "{random}");
        let bursts = Impairment::default().losing(Loss::Bursts(Bursts::blackouts(0.05, 40 * MS)));
        let bursts = share_lost(&outcomes(bursts, 1, 1_000_000));
        assert!((0.045..0.055).contains(&bursts), "{bursts}");
    }

    #[test]
    fn blackouts_are_as_long_as_asked() {
        let outcomes = outcomes(Impairment::default().losing(Loss::Bursts(Bursts::blackouts(0.05, 40 * MS))), 3, 100_000);
        let lengths: Vec<usize> =
            outcomes.chunk_by(|a, b| a.is_err() == b.is_err()).filter(|c| c[0].is_err()).map(<[Outcome]>::len).collect();
        // Two that follow each other at once count as one.
        assert!(lengths.iter().filter(|l| (39..=41).contains(*l)).count() * 10 > lengths.len() * 9, "{lengths:?}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let ordered = |impairment| {
            let arrivals: Vec<Duration> = outcomes(impairment, 1, 1000).into_iter().flatten().map(|(at, _)| at).collect();
            arrivals.is_sorted()
        };
        let jitter = Impairment { jitter: 3 * MS, ..Impairment::calm(25 * MS) };
        assert!(ordered(jitter));
        assert!(!ordered(Impairment { reordered: 0.05, ..jitter }));
    }

    #[test]
    fn the_bottleneck_queues_and_then_drops() {
        // 100 bytes take a millisecond; five fit into the queue.
        let rate = Rate { bits: 800_000, queue: 500 };
        let mut emulator = Emulator::new(Impairment { rate: Some(rate), ..Impairment::default() }, 1, Duration::ZERO);
        let outcomes: Vec<Outcome> = (0..7).map(|_| emulator.decide(100, Duration::ZERO)).collect();
        for (n, outcome) in (1..).zip(&outcomes[..5]) {
            assert_eq!(*outcome, Ok((MS * n, None)));
        }
        assert_eq!(outcomes[5..], [Err(Dropped::Queue), Err(Dropped::Queue)]);
        assert_eq!(emulator.decide(100, 2 * MS), Ok((6 * MS, None)));
    }

    #[test]
    fn an_outage_holds_or_loses() {
        let impairment = |held| Impairment { outages: Some(Outages { every: 50 * MS, length: 30 * MS, held }), ..Impairment::default() };
        assert_eq!(share_lost(&outcomes(impairment(true), 1, 10_000)), 0.0);
        let lost = share_lost(&outcomes(impairment(false), 1, 10_000));
        assert!((0.3..0.45).contains(&lost), "{lost}");
    }

    #[test]
    fn what_is_too_large_vanishes() {
        let mut emulator = Emulator::new(Impairment { mtu: Some(1280), ..Impairment::default() }, 1, Duration::ZERO);
        assert_eq!(emulator.decide(1281, Duration::ZERO), Err(Dropped::Size));
        assert!(emulator.decide(1280, Duration::ZERO).is_ok());
    }
}
