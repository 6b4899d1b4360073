//! When a connection that says nothing is given up: pure, so that it can be tested without waiting.

use std::time::Duration;

use tokio::time::Instant;

/// Least silence that is looked into: a server whose disk is slow still acknowledges packets.
const LEAST: Duration = Duration::from_secs(1);
/// Round trips of silence that are looked into; about four probe timeouts (RFC 9002, section 6.2).
const ROUND_TRIPS: u32 = 8;
/// Silences until the connection is given up, where there is a tunnel to go to, and where there is none.
const TO_TUNNEL: u32 = 2;
const TO_NOWHERE: u32 = 5;

/// Reaction to a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Go on from another port.
    Rebind,
    /// Connect anew.
    GiveUp,
}

/// The most that one look adds to the silence. Looks are far more frequent while something is in flight: where more time went by, it was
/// this process that stood still (stopped, or starved of its processor), and nothing can be said of the server.
const MOST: Duration = Duration::from_millis(500);

/// How long nothing has been heard since something was in flight. Time before that does not count: a sensor that reads once a minute
/// leaves its link silent, not dead.
#[derive(Debug)]
pub(super) struct Silence {
    received: u64,
    /// When the connection was looked at last; `None` while nothing is in flight.
    polled: Option<Instant>,
    silent: Duration,
    rebound: bool,
    fallback: bool,
}

impl Silence {
    pub(super) fn new(fallback: bool) -> Self {
        Self { received: 0, polled: None, silent: Duration::ZERO, rebound: false, fallback }
    }

    /// Says whether something is sent and unanswered. The silence counts from the moment this becomes true.
    pub(super) fn in_flight(&mut self, now: Instant, in_flight: bool) {
        match (in_flight, self.polled) {
            (true, None) => self.begin(now),
            (true, Some(_)) => {}
            (false, _) => self.polled = None,
        }
    }

    /// `received`: packets so far. To be asked regularly, many times within [`LEAST`].
    pub(super) fn poll(&mut self, now: Instant, received: u64, rtt: Duration) -> Verdict {
        let Some(polled) = self.polled else { return Verdict::Fine };
        if received != self.received {
            self.received = received;
            self.begin(now);
            return Verdict::Fine;
        }
        self.silent += (now - polled).min(MOST);
        self.polled = Some(now);
        let patience = LEAST.max(rtt * ROUND_TRIPS);
        if self.silent >= patience * if self.fallback { TO_TUNNEL } else { TO_NOWHERE } {
            Verdict::GiveUp
        } else if self.silent >= patience && !std::mem::replace(&mut self.rebound, true) {
            Verdict::Rebind
        } else {
            Verdict::Fine
        }
    }

    fn begin(&mut self, now: Instant) {
        (self.polled, self.silent, self.rebound) = (Some(now), Duration::ZERO, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    /// How often the connection is looked at.
    const POLL: Duration = Duration::from_millis(100);

    /// Something is in flight from `start` on and nothing more comes: milliseconds until another port is tried, and until
    /// the connection is given up.
    fn dead(silence: &mut Silence, start: Instant, received: u64, rtt: Duration) -> (u128, u128) {
        silence.in_flight(start, true);
        let (mut now, mut rebound) = (start, None);
        loop {
            match silence.poll(now, received, rtt) {
                Verdict::Fine => {}
                Verdict::Rebind => assert_eq!(rebound.replace((now - start).as_millis()), None),
                Verdict::GiveUp => return (rebound.unwrap_or_default(), (now - start).as_millis()),
            }
            now += POLL;
        }
    }

    #[test]
    fn first_another_port_then_another_way() {
        let start = Instant::now();
        // The first look sees the handshake's packets.
        assert_eq!(dead(&mut Silence::new(true), start, 10, RTT), (1000, 2000));
        assert_eq!(dead(&mut Silence::new(false), start, 10, RTT), (1000, 5000));
    }

    #[test]
    fn a_long_way_is_given_longer() {
        assert_eq!(dead(&mut Silence::new(false), Instant::now(), 0, Duration::from_millis(600)), (4800, 24_000));
    }

    #[test]
    fn any_packet_is_a_sign_of_life() {
        let start = Instant::now();
        let mut silence = Silence::new(true);
        silence.in_flight(start, true);
        for n in 1..100 {
            silence.in_flight(start + POLL * n, true);
            assert_eq!(silence.poll(start + POLL * n, u64::from(n / 9), RTT), Verdict::Fine);
        }
    }

    /// Records at an interval, each answered 30 ms later, for minutes; then one that is not.
    #[test]
    fn what_was_idle_before_something_is_owed_is_no_silence() {
        for fallback in [false, true] {
            for interval in [20, 100, 500, 900, 1000, 1100, 2000, 3000, 5000, 10_000, 15_000, 30_000, 60_000] {
                let start = Instant::now();
                let mut silence = Silence::new(fallback);
                let (mut received, mut now) = (4, start);
                for n in 0..u64::max(3, 300_000 / interval) {
                    now = start + Duration::from_millis(n * interval);
                    silence.in_flight(now, true);
                    // A timer that was due long ago fires at once.
                    assert_eq!(silence.poll(now, received, RTT), Verdict::Fine, "{interval} ms, record {n}");
                    // The record's acknowledgement; packets of the link's own care come and go unseen.
                    received += 2;
                    now += Duration::from_millis(30.min(interval / 2));
                    assert_eq!(silence.poll(now, received, RTT), Verdict::Fine, "{interval} ms, record {n}");
                    silence.in_flight(now, false);
                }
                let (rebound, given_up) = dead(&mut silence, now + Duration::from_millis(interval), received, RTT);
                assert!(rebound <= 1000 + POLL.as_millis(), "{interval} ms: {rebound}");
                assert!(given_up <= if fallback { 2000 } else { 5000 } + POLL.as_millis(), "{interval} ms: {given_up}");
            }
        }
    }

    #[test]
    fn a_process_that_stood_still_says_nothing_of_the_server() {
        let start = Instant::now();
        let mut silence = Silence::new(true);
        silence.in_flight(start, true);
        assert_eq!(silence.poll(start, 0, RTT), Verdict::Fine);
        assert_eq!(silence.poll(start + Duration::from_secs(60), 0, RTT), Verdict::Fine);
        assert_eq!(silence.poll(start + Duration::from_secs(60) + POLL, 1, RTT), Verdict::Fine);
    }
}
