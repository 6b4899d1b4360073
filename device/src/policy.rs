//! Reaction to a failed connection: pure, so that "it never hammers a server that said no" can be tested.

use std::time::Duration;

use motience_proto::wire::CloseCode;

use crate::{backoff::Backoff, client, login};

/// How often the wait after another connection took over is doubled.
const MAX_DOUBLINGS: u32 = 2;

/// Settings of reconnecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Waits after failures.
    pub backoff: Backoff,
    /// Least wait after the server said that it was too much.
    pub rate_limited: Duration,
    /// Least wait after a newer connection of the same device took over. Long, for two agents with one name would
    /// otherwise take over from each other for ever; not for good, for it may have been a late packet of our own.
    pub fenced: Duration,
    /// Least wait after the service itself refused this device, until it is asked again; up to as long again is added at random. An
    /// account that was revoked may be restored, and nobody may be near the device to start it anew. `None`: it is not asked again.
    pub refused: Option<Duration>,
    /// Longest wait, random, after the server said that it goes away: not all its devices move in one moment.
    pub drain: Duration,
    /// How long a connection must have lived for the waits to start anew.
    pub stable_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            rate_limited: Duration::from_secs(30),
            fenced: Duration::from_secs(15 * 60),
            refused: None,
            drain: Duration::from_secs(1),
            stable_after: Duration::from_secs(10),
        }
    }
}

/// Why a connection is not there.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The connection.
    #[error(transparent)]
    Connection(#[from] client::Error),
    /// The login.
    #[error(transparent)]
    Login(#[from] login::Error),
    /// The server asked for it, and everything under way is settled.
    #[error("the server is going away")]
    Drained,
    /// Nothing was acknowledged for too long.
    #[error("no acknowledgement within the time limit")]
    Unacknowledged,
    /// Nothing at all was heard while records were under way.
    #[error("no packets from the server")]
    Silent,
    /// The log has records of this outbox that it never sent: it was put back in time, or somebody has a copy of it.
    #[error("the log has records of this outbox that it never sent")]
    Copied,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Connect after this wait.
    Retry(Duration),
    /// Log in with the password after this wait, then connect.
    Login(Duration),
    /// Never connect again: the server would say the same.
    Stop,
}

/// Attempts since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Attempts that failed in a row.
    pub attempts: u32,
    /// Whether the token was just made from the password, and never yet accepted.
    pub fresh_login: bool,
    /// Whether a new token can be had at all.
    pub can_login: bool,
    /// Connections in a row that ended because another of the same device took over.
    pub superseded: u32,
}

impl Policy {
    /// The next step after `failure`, where `random` is uniform in `0..1`.
    pub fn next(&self, failure: &Failure, tried: Tried, random: f64) -> Next {
        let backoff = self.backoff.delay(tried.attempts, random);
        match failure {
            Failure::Connection(client::Error::Closed { code, .. }) => match code {
                CloseCode::Protocol | CloseCode::Forbidden | CloseCode::TooLarge => self.after_refusal(random),
                CloseCode::Fenced => {
                    let times = 1 << tried.superseded.saturating_sub(1).min(MAX_DOUBLINGS);
                    Next::Retry(self.fenced.saturating_mul(times).saturating_add(backoff))
                }
                CloseCode::Unauthenticated if tried.can_login && !tried.fresh_login => {
                    // At once after a long life; but a server that takes tokens and then regrets it is not to be hammered.
                    Next::Login(if tried.attempts == 0 { Duration::ZERO } else { backoff })
                }
                CloseCode::Unauthenticated => self.after_refusal(random),
                CloseCode::RateLimited => Next::Retry(self.rate_limited.saturating_add(backoff)),
                // The first move is quick; a node that only ever drains is a failing one.
                CloseCode::Draining if tried.attempts == 0 => Next::Retry(self.drain.mul_f64(random)),
                CloseCode::Draining | CloseCode::Done | CloseCode::Internal => Next::Retry(backoff),
            },
            Failure::Connection(client::Error::Config(_)) => Next::Stop,
            Failure::Connection(_) | Failure::Unacknowledged => Next::Retry(backoff),
            // The way is gone, not the server: another one may be there at once. A copy has a new name already.
            Failure::Silent | Failure::Copied if tried.attempts == 0 => Next::Retry(Duration::ZERO),
            Failure::Silent | Failure::Copied => Next::Retry(backoff),
            Failure::Drained if tried.attempts == 0 => Next::Retry(self.drain.mul_f64(random)),
            Failure::Drained => Next::Retry(backoff),
            Failure::Login(login::Error::RateLimited(wait)) => Next::Retry(wait.saturating_add(backoff)),
            Failure::Login(error) if error.is_worth_retrying() => Next::Retry(backoff),
            Failure::Login(login::Error::Config(_)) => Next::Stop,
            Failure::Login(_) => self.after_refusal(random),
        }
    }

    /// How long a connection must have lived to show that nobody takes it over again and again: longer than the longest wait of a
    /// rival that does as we do.
    pub(crate) fn unrivalled_after(&self) -> Duration {
        self.fenced.saturating_mul(2 << MAX_DOUBLINGS)
    }

    /// The service said no, not a proxy on the way to it. The device asks again with a token from the password: those of an account that
    /// was revoked stay dead when it is restored.
    fn after_refusal(&self, random: f64) -> Next {
        self.refused.map_or(Next::Stop, |wait| Next::Login(wait.saturating_add(wait.mul_f64(random))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: f64 = 1.0;

    fn closed(code: CloseCode) -> Failure {
        client::Error::Closed { code, reason: String::new() }.into()
    }

    fn tried(attempts: u32) -> Tried {
        Tried { attempts, can_login: true, ..Tried::default() }
    }

    #[test]
    fn a_no_is_a_no() {
        let policy = Policy::default();
        for code in [CloseCode::Protocol, CloseCode::Forbidden, CloseCode::TooLarge] {
            assert_eq!(policy.next(&closed(code), tried(0), LONGEST), Next::Stop, "{code:?}");
        }
        let refused = login::Error::Refused { status: 401, reason: String::new() };
        assert_eq!(policy.next(&refused.into(), tried(3), LONGEST), Next::Stop);
    }

    #[test]
    fn who_is_told_to_asks_again_minutes_after_a_no() {
        let policy = Policy { refused: Some(Duration::from_secs(300)), ..Policy::default() };
        let login = login::Error::Refused { status: 403, reason: String::new() };
        let bad = closed(CloseCode::Unauthenticated);
        let fresh = Tried { fresh_login: true, ..tried(9) };
        for (failure, tried) in
            [(closed(CloseCode::Forbidden), tried(9)), (closed(CloseCode::Protocol), tried(9)), (login.into(), tried(9)), (bad, fresh)]
        {
            assert_eq!(policy.next(&failure, tried, 0.0), Next::Login(Duration::from_secs(300)), "{failure}");
            assert_eq!(policy.next(&failure, tried, LONGEST), Next::Login(Duration::from_secs(600)), "{failure}");
        }
        let config = login::Error::Config(String::new());
        assert_eq!(policy.next(&config.into(), tried(0), 0.0), Next::Stop, "no waiting mends a wrong setting");
    }

    #[test]
    fn who_is_taken_over_again_and_again_waits_longer() {
        let policy = Policy::default();
        let minutes = |superseded| match policy.next(&closed(CloseCode::Fenced), Tried { superseded, ..tried(0) }, 0.0) {
            Next::Retry(wait) => wait.as_secs() / 60,
            other => panic!("{other:?}"),
        };
        assert_eq!([0, 1, 2, 3, 4, 99].map(minutes), [15, 15, 30, 60, 60, 60]);
        assert!(policy.unrivalled_after() > Duration::from_secs(3600));
    }

    #[test]
    fn a_bad_token_is_replaced_once() {
        let policy = Policy::default();
        let bad = closed(CloseCode::Unauthenticated);
        assert_eq!(policy.next(&bad, tried(0), LONGEST), Next::Login(Duration::ZERO));
        assert_eq!(policy.next(&bad, tried(20), LONGEST), Next::Login(policy.backoff.max));
        assert_eq!(policy.next(&bad, Tried { fresh_login: true, ..tried(0) }, LONGEST), Next::Stop);
        assert_eq!(policy.next(&bad, Tried { can_login: false, ..tried(0) }, LONGEST), Next::Stop);
    }

    #[test]
    fn waits() {
        let policy = Policy::default();
        assert_eq!(policy.next(&closed(CloseCode::RateLimited), tried(0), 0.0), Next::Retry(Duration::from_secs(30)));
        assert_eq!(policy.next(&closed(CloseCode::Fenced), tried(0), 0.0), Next::Retry(Duration::from_secs(900)));
        assert_eq!(policy.next(&closed(CloseCode::Draining), tried(0), LONGEST), Next::Retry(policy.drain));
        for code in [CloseCode::Draining, CloseCode::Internal, CloseCode::Done] {
            assert_eq!(policy.next(&closed(code), tried(20), LONGEST), Next::Retry(policy.backoff.max), "{code:?}");
        }
        assert_eq!(policy.next(&client::Error::Timeout.into(), tried(20), LONGEST), Next::Retry(policy.backoff.max));
        let wait = Duration::from_secs(600);
        assert_eq!(policy.next(&login::Error::RateLimited(wait).into(), tried(0), 0.0), Next::Retry(wait));
    }
}
