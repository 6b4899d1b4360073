//! A rate over the last seconds, from a total that is looked at now and then.

use std::time::Duration;

/// Time between two looks, and between two reports.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Looks that a rate spans: ten seconds.
const LOOKS: usize = 5;

/// The totals of the last looks, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Window([u64; LOOKS + 1]);

impl Window {
    /// Takes a look.
    pub(crate) fn look(&mut self, total: u64) {
        self.0.rotate_left(1);
        self.0[LOOKS] = total;
    }

    /// Thousandths for each second.
    pub(crate) fn millirate(&self) -> u64 {
        (self.0[LOOKS] - self.0[0]) * 1000 / (LOOKS as u64 * LOOK_EVERY.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_and_fades_within_ten_seconds() {
        let mut window = Window::default();
        let rates: Vec<u64> = [10, 20, 30, 40, 50, 60, 60, 60, 60, 60, 60]
            .map(|total| {
                window.look(total);
                window.millirate() / 1000
            })
            .into();
        assert_eq!(rates, [1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]);
    }
}
