//! A station of the simulation: processors that serve what comes, in the order in which it comes.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nanoseconds since the simulation began.
pub(super) type Nanos = u64;

/// Processors with one queue before them.
pub(super) struct Station {
    /// When each processor is free.
    free: BinaryHeap<Reverse<Nanos>>,
    processors: usize,
    busy: Nanos,
    /// The time that counts.
    from: Nanos,
    until: Nanos,
}

impl Station {
    /// `from` and `until`: the time over which its utilisation is measured.
    pub(super) fn new(processors: usize, from: Nanos, until: Nanos) -> Self {
        Self { free: (0..processors).map(|_| Reverse(0)).collect(), processors, busy: 0, from, until }
    }

    /// Serves one that comes now, and says when that is done. They have to be given in the order of time: the first processor that is free serves
    /// each, so its end is known at once.
    pub(super) fn serve(&mut self, now: Nanos, takes: Nanos) -> Nanos {
        let Some(mut free) = self.free.peek_mut() else { return now + takes };
        let begin = now.max(free.0);
        let end = begin + takes;
        *free = Reverse(end);
        self.busy += end.min(self.until).saturating_sub(begin.max(self.from));
        end
    }

    /// The part of the time that its processors were busy.
    pub(super) fn utilisation(&self) -> f64 {
        self.busy as f64 / (self.until - self.from) as f64 / self.processors as f64
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn two_processors_serve_in_order() {
        let mut station = Station::new(2, 0, 100);
        assert_eq!([(0, 10), (1, 10), (2, 10), (3, 1), (50, 5)].map(|(at, takes)| station.serve(at, takes)), [10, 11, 20, 12, 55]);
        assert!((station.utilisation() - 36.0 / 200.0).abs() < 1e-9);
    }

    #[test]
    fn only_the_measured_time_counts() {
        let mut station = Station::new(1, 100, 200);
        station.serve(50, 100);
        station.serve(190, 100);
        assert!((station.utilisation() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn what_comes_at_random_waits_as_the_formula_says() {
        // M/D/1: the mean wait is load / (2 (1 - load)) services.
        for load in [0.5, 0.8, 0.9] {
            let (mut rng, mut station, takes, many) = (Rng::with_seed(7), Station::new(1, 0, u64::MAX), 1_000_000, 400_000);
            let (mut now, mut waited) = (0.0, 0.0);
            for _ in 0..many {
                now += -(1.0 - rng.f64()).ln() * takes as f64 / load;
                waited += (station.serve(now as u64, takes) - takes - now as u64) as f64;
            }
            let (mean, wanted) = (waited / f64::from(many) / takes as f64, load / (2.0 * (1.0 - load)));
            assert!((mean / wanted - 1.0).abs() < 0.05, "{load}: {mean} instead of {wanted}");
        }
    }
}
