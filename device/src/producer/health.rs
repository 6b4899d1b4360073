//! When a device says how it is: pure, so that it can be tested without waiting.

use std::time::Duration;

use motience_proto::wire::Health;
use tokio::time::Instant;

/// How soon after the connection began, and how often then, it is considered.
pub(super) const FIRST: Duration = Duration::from_secs(1);
pub(super) const EVERY: Duration = Duration::from_secs(3);
/// Records more or less that are no news: a few are always in flight.
const BACKLOG: u64 = 16;
/// Millionths of loss that are none.
const LOSS: u64 = 2000;

/// The last report.
#[derive(Debug)]
pub(super) struct Reporter {
    reported: Option<(Health, Instant)>,
    /// After how long the same is said again.
    repeat: Duration,
}

impl Reporter {
    /// `keep_alive`: the transport's. A report that is repeated on an idle link takes the place of its ping.
    pub(super) fn new(keep_alive: Duration) -> Self {
        // Half a look early: one that comes a moment before its time would leave the ping to be sent, and be told beside it.
        Self { reported: None, repeat: keep_alive.max(EVERY) - EVERY / 2 }
    }

    /// Whether it is worth saying now.
    pub(super) fn is_due(&mut self, health: Health, now: Instant) -> bool {
        let due = self.reported.is_none_or(|(reported, at)| is_news(reported, health) || now - at >= self.repeat);
        if due {
            self.reported = Some((health, now));
        }
        due
    }
}

fn is_news(reported: Health, now: Health) -> bool {
    let backlog = reported.backlog.abs_diff(now.backlog) > BACKLOG.max(reported.backlog / 4);
    let loss = match (reported.loss_ppm, now.loss_ppm) {
        (Some(reported), Some(now)) => reported.abs_diff(now) > LOSS.max(reported / 5),
        (reported, now) => reported != now,
    };
    backlog || loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_comes_in_time_to_take_the_place_of_a_ping() {
        let start = Instant::now();
        let health = Health { backlog: 0, loss_ppm: None };
        let mut reporter = Reporter::new(Duration::from_secs(15));
        // Looks are late by this and that.
        for (millis, due) in
            [(1004, true), (4001, false), (13_001, false), (16_001, true), (19_005, false), (28_002, false), (31_000, true)]
        {
            assert_eq!(reporter.is_due(health, start + Duration::from_millis(millis)), due, "after {millis} ms");
        }
    }

    #[test]
    fn news_are_said_at_once_and_the_same_now_and_then() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let health = |backlog, loss_ppm| Health { backlog, loss_ppm };
        let mut reporter = Reporter::new(Duration::from_secs(15));
        for (secs, backlog, loss, due) in [
            (1, 3, None, true),
            (4, 9, None, false),
            (7, 30, None, true),
            (10, 30, Some(50_000), true),
            (13, 33, Some(45_000), false),
            (16, 33, Some(61_000), true),
            (22, 30, Some(60_000), false),
            (31, 30, Some(60_000), true),
            (34, 1000, Some(60_000), true),
            (37, 1200, Some(60_000), false),
            (40, 0, Some(60_000), true),
        ] {
            assert_eq!(reporter.is_due(health(backlog, loss), at(secs)), due, "after {secs} s");
        }
    }
}
