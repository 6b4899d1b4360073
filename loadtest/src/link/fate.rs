//! What becomes of each packet of one direction: a seeded generator decides, and time is told to it.
//!
//! The order is that of a real link: first the queue before the bottleneck, then loss on the way, then the way itself.

use std::time::Duration;

use fastrand::Rng;

use super::weather::{Loss, Outages, Rate, Weather};

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

/// What becomes of a packet: when it arrives, and when its double does. Times count from the start of the link.
pub type Fate = Result<(Duration, Option<Duration>), Dropped>;

/// How far behind its time a packet comes that others overtake: more than the usual distance of packets.
const OVERTAKEN: Duration = Duration::from_millis(5);
/// How far behind the first a double comes.
const DOUBLE: Duration = Duration::from_millis(1);
/// Jitter is at most this many times its mean.
const MAX_JITTER: u32 = 8;

/// One direction's generator.
#[derive(Debug)]
pub struct Oracle {
    weather: Weather,
    rng: Rng,
    bottleneck: Duration,
    latest: Duration,
    bad: Spells,
    outage: Spells,
}

impl Oracle {
    /// The weather from `now` on.
    #[must_use]
    pub fn new(weather: Weather, seed: u64, now: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let spells = |rng: &mut Rng, good, bad| Spells::new(rng.fork(), now, good, bad);
        let never = (Duration::MAX, Length::Fixed(Duration::ZERO));
        let (good, length) = match weather.loss {
            Loss::Bursts(b) if b.share > 0.0 => {
                let good = b.length.mul_f64((1.0 - b.share) / b.share);
                (good, if b.fixed { Length::Fixed(b.length) } else { Length::Mean(b.length) })
            }
            _ => never,
        };
        let bad = spells(&mut rng, good, length);
        let (good, length) = weather.outages.map_or(never, |o| (o.every, Length::Fixed(o.length)));
        let outage = spells(&mut rng, good, length);
        Self { weather, rng, bottleneck: now, latest: now, bad, outage }
    }

    /// Another weather from `now` on; what waits before the bottleneck goes on waiting.
    pub fn change(&mut self, weather: Weather, now: Duration) {
        let (bottleneck, latest) = (self.bottleneck, self.latest);
        *self = Self::new(weather, self.rng.u64(..), now);
        (self.bottleneck, self.latest) = (bottleneck.max(now), latest);
    }

    /// Decides about a packet of so many bytes that enters the link `now`.
    pub fn decide(&mut self, bytes: usize, now: Duration) -> Fate {
        if self.weather.mtu.is_some_and(|mtu| bytes > usize::from(mtu)) {
            return Err(Dropped::Size);
        }
        let departs = match self.weather.rate {
            Some(rate) => self.queue(rate, bytes as u64, now)?,
            None => now,
        };
        if self.is_lost(departs) {
            return Err(Dropped::Lost);
        }
        let departs = match (self.weather.outages, self.outage.until(departs)) {
            (Some(Outages { held: true, .. }), Some(end)) => end,
            (Some(_), Some(_)) => return Err(Dropped::Lost),
            _ => departs,
        };
        let due = departs + self.weather.delay + self.jitter();
        let arrives = if self.rng.f64() < self.weather.reordered {
            due + OVERTAKEN
        } else {
            self.latest = self.latest.max(due);
            self.latest
        };
        let double = (self.rng.f64() < self.weather.doubled).then_some(arrives + DOUBLE);
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
        let probability = match self.weather.loss {
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
        let mean = self.weather.jitter;
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
    use crate::link::weather::Bursts;

    const MS: Duration = Duration::from_millis(1);

    /// Fates of packets of 100 bytes, one each millisecond.
    fn fates(weather: Weather, seed: u64, count: u32) -> Vec<Fate> {
        let mut oracle = Oracle::new(weather, seed, Duration::ZERO);
        (0..count).map(|n| oracle.decide(100, MS * n)).collect()
    }

    fn share_lost(fates: &[Fate]) -> f64 {
        fates.iter().filter(|f| f.is_err()).count() as f64 / fates.len() as f64
    }

    #[test]
    fn the_same_seed_is_the_same_weather() {
        let weather = Weather { jitter: MS, loss: Loss::Random(0.1), reordered: 0.1, doubled: 0.1, ..Weather::calm(25 * MS) };
        assert_eq!(fates(weather, 1, 1000), fates(weather, 1, 1000));
        assert_ne!(fates(weather, 1, 1000), fates(weather, 2, 1000));
    }

    #[test]
    fn a_calm_link_only_delays() {
        for (n, fate) in (0..).zip(fates(Weather::calm(25 * MS), 1, 100)) {
            assert_eq!(fate, Ok((MS * (25 + n), None)));
        }
    }

    #[test]
    fn loss_is_as_frequent_as_asked() {
        let random = share_lost(&fates(Weather::default().losing(Loss::Random(0.05)), 1, 100_000));
        assert!((0.045..0.055).contains(&random), "{random}");
        let bursts = Weather::default().losing(Loss::Bursts(Bursts::blackouts(0.05, 40 * MS)));
        let bursts = share_lost(&fates(bursts, 1, 1_000_000));
        assert!((0.045..0.055).contains(&bursts), "{bursts}");
    }

    #[test]
    fn blackouts_are_as_long_as_asked() {
        let fates = fates(Weather::default().losing(Loss::Bursts(Bursts::blackouts(0.05, 40 * MS))), 3, 100_000);
        let lengths: Vec<usize> = fates.chunk_by(|a, b| a.is_err() == b.is_err()).filter(|c| c[0].is_err()).map(<[Fate]>::len).collect();
        // Two that follow each other at once count as one.
        assert!(lengths.iter().filter(|l| (39..=41).contains(*l)).count() * 10 > lengths.len() * 9, "{lengths:?}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let ordered = |weather| {
            let arrivals: Vec<Duration> = fates(weather, 1, 1000).into_iter().flatten().map(|(at, _)| at).collect();
            arrivals.is_sorted()
        };
        let jitter = Weather { jitter: 3 * MS, ..Weather::calm(25 * MS) };
        assert!(ordered(jitter));
        assert!(!ordered(Weather { reordered: 0.05, ..jitter }));
    }

    #[test]
    fn the_bottleneck_queues_and_then_drops() {
        // 100 bytes take a millisecond; five fit into the queue.
        let rate = Rate { bits: 800_000, queue: 500 };
        let mut oracle = Oracle::new(Weather { rate: Some(rate), ..Weather::default() }, 1, Duration::ZERO);
        let fates: Vec<Fate> = (0..7).map(|_| oracle.decide(100, Duration::ZERO)).collect();
        for (n, fate) in (1..).zip(&fates[..5]) {
            assert_eq!(*fate, Ok((MS * n, None)));
        }
        assert_eq!(fates[5..], [Err(Dropped::Queue), Err(Dropped::Queue)]);
        assert_eq!(oracle.decide(100, 2 * MS), Ok((6 * MS, None)));
    }

    #[test]
    fn an_outage_holds_or_loses() {
        let weather = |held| Weather { outages: Some(Outages { every: 50 * MS, length: 30 * MS, held }), ..Weather::default() };
        assert_eq!(share_lost(&fates(weather(true), 1, 10_000)), 0.0);
        let lost = share_lost(&fates(weather(false), 1, 10_000));
        assert!((0.3..0.45).contains(&lost), "{lost}");
    }

    #[test]
    fn what_is_too_large_vanishes() {
        let mut oracle = Oracle::new(Weather { mtu: Some(1280), ..Weather::default() }, 1, Duration::ZERO);
        assert_eq!(oracle.decide(1281, Duration::ZERO), Err(Dropped::Size));
        assert!(oracle.decide(1280, Duration::ZERO).is_ok());
    }
}
