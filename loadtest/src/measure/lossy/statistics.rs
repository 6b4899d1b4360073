//! Percentiles of what several rounds measured, and how sure they are.

use fastrand::Rng;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 400;
/// The percentiles that are told.
pub(super) const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];
/// Highest latency recorded, in microseconds: a minute.
const MAX_LATENCY: u64 = 60_000_000;

/// A percentile with its 95 % confidence interval, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Estimate {
    pub(super) percentile: f64,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// Estimates from the latencies of blocks, in microseconds.
///
/// A block is what was sent in one second of one round. Latencies near each other in time share their luck, so whole blocks
/// are drawn again (with replacement, from all rounds) and not single records: a block bootstrap.
pub(super) fn estimates(blocks: &[Vec<u32>]) -> Vec<Estimate> {
    let mut all = pool(blocks.iter());
    if all.is_empty() {
        return Vec::new();
    }
    let values = percentiles(&mut all);
    let mut rng = Rng::with_seed(1);
    let mut resampled: Vec<Vec<f64>> = (0..RESAMPLES)
        .map(|_| {
            let mut drawn = pool((0..blocks.len()).map(|_| &blocks[rng.usize(..blocks.len())]));
            percentiles(&mut drawn)
        })
        .collect();
    PERCENTILES
        .iter()
        .enumerate()
        .map(|(n, percentile)| {
            resampled.sort_by(|a, b| a[n].total_cmp(&b[n]));
            let at = |share: f64| resampled[((RESAMPLES - 1) as f64 * share).round() as usize][n];
            Estimate { percentile: *percentile, value: values[n], low: at(0.025), high: at(0.975) }
        })
        .collect()
}

/// All latencies in one histogram, for whoever wants other percentiles.
pub(super) fn histogram(blocks: &[Vec<u32>]) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("constant bounds are valid");
    for latency in blocks.iter().flatten() {
        histogram.saturating_record(u64::from(*latency).max(1));
    }
    histogram
}

fn pool<'a>(blocks: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u32> {
    blocks.flatten().copied().collect()
}

/// In milliseconds; 0 where nothing was drawn.
fn percentiles(latencies: &mut [u32]) -> Vec<f64> {
    latencies.sort_unstable();
    PERCENTILES.iter().map(|p| latencies.get(rank(latencies.len(), *p)).map_or(0.0, |l| f64::from(*l) / 1000.0)).collect()
}

/// The nearest rank: the smallest that at least this share does not exceed.
fn rank(count: usize, percentile: f64) -> usize {
    ((count as f64 * percentile / 100.0).ceil() as usize).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let blocks: Vec<Vec<u32>> = (0..10).map(|b| (1..=100).map(|n| (b * 100 + n) * 1000).collect()).collect();
        let values: Vec<f64> = estimates(&blocks).iter().map(|e| e.value).collect();
        assert_eq!(values, [500.0, 900.0, 990.0, 999.0]);
    }

    #[test]
    fn intervals_hold_the_value_and_shrink_with_more_rounds() {
        let mut rng = Rng::with_seed(7);
        let mut blocks =
            |count: usize| -> Vec<Vec<u32>> { (0..count).map(|_| (0..100).map(|_| rng.u32(20_000..100_000)).collect()).collect() };
        let (few, many) = (estimates(&blocks(10)), estimates(&blocks(200)));
        for e in few.iter().chain(&many) {
            assert!(e.low <= e.value && e.value <= e.high, "{e:?}");
        }
        assert!(many[0].high - many[0].low < few[0].high - few[0].low);
    }

    #[test]
    fn nothing_measured_is_no_estimate() {
        assert!(estimates(&[]).is_empty());
        assert_eq!(histogram(&[vec![1, 2]]).len(), 2);
    }
}
