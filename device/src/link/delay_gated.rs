//! Delay-gated NewReno: congestion control for sparse streams over links that lose packets for reasons of their own.
//!
//! Radio loss says nothing about the queue of a link. So a lost packet alone changes nothing here. Signs of congestion
//! are: a queue that grows, seen as delay over the least round trip (as in LEDBAT, RFC 6817, and Copa, NSDI 2018); loss in
//! numbers that no radio explains; all packets of a long time lost (persistent congestion, RFC 9002, section 7.6); a mark of
//! the network (ECN, RFC 3168). To any of them it gives way, once a round trip, and grows again as NewReno does. A flow
//! that fills queues, such as TCP, thus finds it standing back; and a stream of a few records a second always has its few
//! packets.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Settings of [`DelayGatedNewReno`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DelayGatedConfig {
    /// Window to begin with, in packets (RFC 9002, section 7.2).
    pub initial: u64,
    /// Window that is always there, in packets.
    pub floor: u64,
    /// Queueing delay over which the window shrinks.
    pub delay: Duration,
    /// Share of packets lost in a round trip over which the window shrinks.
    pub loss: f64,
}

impl Default for DelayGatedConfig {
    fn default() -> Self {
        Self { initial: 16, floor: 8, delay: Duration::from_millis(40), loss: 0.25 }
    }
}

impl ControllerFactory for DelayGatedConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(DelayGatedNewReno::new(*self, now, current_mtu))
    }
}

/// How much is left of the window after a sign of congestion.
const BACK_OFF: f64 = 0.7;
/// How long a least round trip is believed: routes change.
const LEAST_FOR: Duration = Duration::from_secs(10);
/// Packets lost or delivered in a round trip from which their share means anything.
const LEAST_PACKETS: u64 = 16;

/// See the module.
#[derive(Clone, Debug)]
pub struct DelayGatedNewReno {
    config: DelayGatedConfig,
    mtu: u64,
    window: u64,
    /// Below it the window doubles each round trip.
    threshold: u64,
    /// Least round trip of this stretch of time, and of the one before it.
    least: [Option<Duration>; 2],
    stretch: Instant,
    /// The round trip under way: it ends with the first packet sent after its begin.
    round: Instant,
    round_packets: u64,
    round_delivered: u64,
    round_lost: u64,
    /// Least delay seen in it: the queue that never emptied.
    round_delay: Option<Duration>,
    /// A sign of congestion for a packet sent before this is old news.
    recovery: Instant,
}

impl DelayGatedNewReno {
    fn new(config: DelayGatedConfig, now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            config,
            mtu,
            window: config.initial * mtu,
            threshold: u64::MAX,
            least: [None; 2],
            stretch: now,
            round: now,
            round_packets: 0,
            round_delivered: 0,
            round_lost: 0,
            round_delay: None,
            recovery: now,
        }
    }

    fn floor(&self) -> u64 {
        self.config.floor * self.mtu
    }

    fn back_off(&mut self, now: Instant, factor: f64) {
        self.window = ((self.window as f64 * factor) as u64).max(self.floor());
        self.threshold = self.window;
        self.recovery = now;
    }

    /// Queueing delay of a round trip.
    fn queue(&mut self, now: Instant, rtt: Duration) -> Duration {
        if now.saturating_duration_since(self.stretch) >= LEAST_FOR {
            self.stretch = now;
            self.least = [None, self.least[0]];
        }
        self.least[0] = Some(self.least[0].map_or(rtt, |least| least.min(rtt)));
        let least = self.least.iter().flatten().min().copied().unwrap_or(rtt);
        rtt.saturating_sub(least)
    }

    fn end_round(&mut self, now: Instant) {
        let bytes = self.round_delivered + self.round_lost;
        let many_lost = self.round_packets >= LEAST_PACKETS && self.round_lost as f64 > self.config.loss * bytes as f64;
        let long_queue = self.round_delay.is_some_and(|delay| delay > self.config.delay);
        // Measurements from before the last back-off took effect say nothing about it.
        if (many_lost || long_queue) && self.round >= self.recovery {
            self.back_off(now, BACK_OFF);
        }
        (self.round, self.round_packets, self.round_delivered, self.round_lost, self.round_delay) = (now, 0, 0, 0, None);
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        // This very packet's time, not a smoothed one: is there a queue now? A late acknowledgement only adds to it.
        let queue = self.queue(now, now.saturating_duration_since(sent));
        self.round_delay = Some(self.round_delay.map_or(queue, |least| least.min(queue)));
        self.round_packets += 1;
        self.round_delivered += bytes;
        if sent >= self.round {
            self.end_round(now);
        }
        if app_limited || sent <= self.recovery {
            return;
        }
        if self.window < self.threshold {
            self.window += bytes;
            if queue > self.config.delay / 2 {
                self.threshold = self.window;
            }
        } else {
            self.window += self.mtu * bytes / self.window.max(1);
        }
    }
}

impl Controller for DelayGatedNewReno {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if is_persistent_congestion {
            // From the floor it doubles up to where it was: an outage is over as suddenly as it came (RFC 9002, 7.6.2).
            self.threshold = ((self.window as f64 * BACK_OFF) as u64).max(self.floor());
            self.window = self.floor();
            self.recovery = now;
        } else if lost_bytes == 0 && sent > self.recovery {
            self.back_off(now, BACK_OFF);
        } else {
            self.round_packets += 1;
            self.round_lost += lost_bytes;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.window = self.window.max(self.floor());
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.ssthresh = Some(self.threshold);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.config.initial * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1200;
    const PACKET: u64 = 1200;
    const RTT: Duration = Duration::from_millis(50);

    /// A sender that always has something to send, one packet each millisecond.
    struct Flow {
        controller: DelayGatedNewReno,
        now: Instant,
    }

    impl Flow {
        fn new() -> Self {
            let now = Instant::now();
            Self { controller: DelayGatedNewReno::new(DelayGatedConfig::default(), now, MTU), now }
        }

        /// `is_lost` and the queueing delay of each of `count` packets.
        fn run(&mut self, count: u32, mut packet: impl FnMut(u32) -> (bool, Duration)) {
            for n in 0..count {
                self.now += Duration::from_millis(1);
                match packet(n) {
                    (true, _) => self.controller.on_congestion_event(self.now + RTT, self.now, false, PACKET),
                    (false, queue) => self.controller.acked(self.now + RTT + queue, self.now, PACKET, false),
                }
            }
            self.now += RTT;
        }

        fn packets(&self) -> u64 {
            self.controller.window() / PACKET
        }
    }

    #[test]
    fn single_losses_at_constant_delay_are_no_congestion() {
        let mut flow = Flow::new();
        let mut random = fastrand::Rng::with_seed(7);
        flow.run(2000, |_| (random.f64() < 0.05, Duration::ZERO));
        assert!(flow.packets() > 500, "{}", flow.packets());
    }

    #[test]
    fn a_growing_queue_is() {
        let mut flow = Flow::new();
        flow.run(500, |_| (false, Duration::ZERO));
        let before = flow.packets();
        flow.run(500, |_| (false, Duration::from_millis(100)));
        assert!(flow.packets() < before / 2, "{} of {before}", flow.packets());
    }

    #[test]
    fn so_is_loss_that_no_radio_explains() {
        let mut flow = Flow::new();
        flow.run(500, |_| (false, Duration::ZERO));
        let before = flow.packets();
        flow.run(500, |n| (n % 2 == 0, Duration::ZERO));
        assert!(flow.packets() < before, "{} of {before}", flow.packets());
    }

    #[test]
    fn an_outage_leaves_the_floor_from_which_it_comes_back_fast() {
        let mut flow = Flow::new();
        flow.run(500, |_| (false, Duration::ZERO));
        let before = flow.packets();
        flow.controller.on_congestion_event(flow.now, flow.now, true, PACKET);
        assert_eq!(flow.packets(), DelayGatedConfig::default().floor);
        flow.run(200, |_| (false, Duration::ZERO));
        assert!(flow.packets() > before / 5, "{} of {before}", flow.packets());
    }

    #[test]
    fn a_sparse_stream_always_has_its_packets() {
        let mut flow = Flow::new();
        flow.run(5000, |_| (false, Duration::from_millis(500)));
        flow.run(5000, |n| (n % 3 != 0, Duration::from_millis(500)));
        assert!(flow.packets() >= DelayGatedConfig::default().floor);
    }
}
