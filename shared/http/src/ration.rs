//! Frames that carry nothing are rationed: pings, settings, resets, empty fragments. One of them costs the server as much as it
//! costs the peer, so a flood would take a core, and the answers to a peer that reads none of them would take the memory.

use tokio::time::Instant;

/// Seconds' worth that a peer may send at once.
const BURST: u32 = 10;

/// How many frames that carry nothing one connection may still send.
#[derive(Debug)]
pub struct Ration {
    /// Frames for each second.
    rate: u32,
    left: u32,
    filled: Instant,
}

/// A peer sent more frames that carry nothing than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many frames that carry nothing (CONTROL_FRAMES_PER_SECOND)")]
pub struct Flooded;

impl Ration {
    /// A full one: `rate` frames for each second, ten seconds' worth at once.
    pub fn new(rate: u32) -> Self {
        Self { rate, left: rate.saturating_mul(BURST), filled: Instant::now() }
    }

    /// Counts one frame.
    pub fn spend(&mut self) -> Result<(), Flooded> {
        self.spend_at(Instant::now)
    }

    fn spend_at(&mut self, now: impl FnOnce() -> Instant) -> Result<(), Flooded> {
        if self.left == 0 {
            // The clock is asked only here, so that a frame within the ration costs next to nothing.
            let now = now();
            let earned = (now - self.filled).as_millis().saturating_mul(u128::from(self.rate)) / 1000;
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(self.rate.saturating_mul(BURST));
            if self.left == 0 {
                return Err(Flooded);
            }
            self.filled = now;
        }
        self.left -= 1;
        Ok(())
    }

    /// Allows more frames, because we sent something that the peer may answer with them.
    pub fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(self.rate.saturating_mul(BURST));
    }
}

/// Counts a connection that the server ends because of its peer.
pub fn count_ended(reason: &'static str) {
    metrics::counter!("motience_connections_ended_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn a_ration_is_ten_seconds_worth_and_fills_with_time() {
        let mut ration = Ration::new(100);
        let mut now = ration.filled;
        let mut spent_after = |ration: &mut Ration, millis| {
            now += Duration::from_millis(millis);
            (0..u32::MAX).find(|_| ration.spend_at(|| now).is_err()).expect("a ration ends")
        };
        assert_eq!(spent_after(&mut ration, 0), 1000);
        assert_eq!(spent_after(&mut ration, 50), 5);
        assert_eq!(spent_after(&mut ration, 3_600_000), 1000, "a long silence saves no more");
        ration.earn(3);
        assert_eq!(spent_after(&mut ration, 0), 3);
    }
}
