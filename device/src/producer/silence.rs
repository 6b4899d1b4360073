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

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Go on from another port.
    Rebind,
    /// Connect anew.
    GiveUp,
}

/// How long nothing has been heard while something was owed.
#[derive(Debug)]
pub(super) struct Silence {
    received: u64,
    since: Instant,
    rebound: bool,
    fallback: bool,
}

impl Silence {
    pub(super) fn new(now: Instant, fallback: bool) -> Self {
        Self { received: 0, since: now, rebound: false, fallback }
    }

    /// `received`: packets so far; `owed`: whether records are under way.
    pub(super) fn look(&mut self, now: Instant, received: u64, owed: bool, rtt: Duration) -> Verdict {
        if received != self.received || !owed {
            (self.received, self.since, self.rebound) = (received, now, false);
            return Verdict::Fine;
        }
        let (silence, patience) = (now - self.since, LEAST.max(rtt * ROUND_TRIPS));
        if silence >= patience * if self.fallback { TO_TUNNEL } else { TO_NOWHERE } {
            Verdict::GiveUp
        } else if silence >= patience && !std::mem::replace(&mut self.rebound, true) {
            Verdict::Rebind
        } else {
            Verdict::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    #[test]
    fn first_another_port_then_another_way() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut silence = Silence::new(start, true);
        assert_eq!(silence.look(at(0), 10, true, RTT), Verdict::Fine);
        assert_eq!(silence.look(at(999), 10, true, RTT), Verdict::Fine);
        assert_eq!(silence.look(at(1000), 10, true, RTT), Verdict::Rebind);
        assert_eq!(silence.look(at(1500), 10, true, RTT), Verdict::Fine);
        assert_eq!(silence.look(at(2000), 10, true, RTT), Verdict::GiveUp);
    }

    #[test]
    fn any_packet_is_a_sign_of_life_and_nothing_owed_is_no_silence() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut silence = Silence::new(start, true);
        for n in 1..10 {
            assert_eq!(silence.look(at(n), n, true, RTT), Verdict::Fine);
        }
        assert_eq!(silence.look(at(100), 9, false, RTT), Verdict::Fine);
        assert_eq!(silence.look(at(101), 9, true, RTT), Verdict::Rebind);
    }

    #[test]
    fn a_long_way_is_given_longer() {
        let start = Instant::now();
        let mut silence = Silence::new(start, false);
        assert_eq!(silence.look(start + Duration::from_secs(4), 0, true, Duration::from_millis(600)), Verdict::Fine);
        assert_eq!(silence.look(start + Duration::from_secs(5), 0, true, Duration::from_millis(600)), Verdict::Rebind);
        assert_eq!(silence.look(start + Duration::from_secs(24), 0, true, Duration::from_millis(600)), Verdict::GiveUp);
    }
}
