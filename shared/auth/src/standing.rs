//! The standing of a live connection: the token that it showed last.
//!
//! Whoever serves a connection races [`Standing::over`] against all it does, first of all a write that its peer does not take,
//! and asks [`Standing::is_over`] before it hands over another record.

use std::{fmt, sync::Arc, time::Duration};

use motience_runtime::clock::Clock;
use tokio::{sync::watch, time::sleep};

use super::{
    Client, Grant, LiveConnections, Revocations,
    live::{Listed, State},
};

/// A connection's right to be there; renewed by another token of its account.
pub struct Standing {
    clock: Clock,
    revocations: Revocations,
    state: Arc<watch::Sender<State>>,
    listed: Listed,
}

/// Why a connection does not live by another grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// The grant is not of the same account, role and device.
    #[error("the renewed token is another account's")]
    Account,
    /// The grant has fewer scopes.
    #[error("the renewed token allows less than the first")]
    Less,
}

impl Standing {
    /// Lives by this grant for now, and is listed among the live connections.
    pub fn new(grant: Grant, client: Client, live: &LiveConnections, revocations: Revocations, clock: Clock) -> Self {
        let state = Arc::new(watch::Sender::new(State { grant, ended: false }));
        let listed = live.enter(client, clock.now(), &state);
        Self { clock, revocations, state, listed }
    }

    /// The grant in force.
    pub fn grant(&self) -> Grant {
        self.state.borrow().grant.clone()
    }

    /// Lives by another one from now on. Nothing happens where that is another account's, or allows less: what the connection was given the
    /// right to when it began is not asked for again.
    pub fn renew(&self, renewed: Grant) -> Result<(), NotRenewed> {
        {
            let State { grant, .. } = &*self.state.borrow();
            if !renewed.is_of_same_account(grant) {
                return Err(NotRenewed::Account);
            }
            if !renewed.scopes.cover(&grant.scopes) {
                return Err(NotRenewed::Less);
            }
        }
        self.state.send_modify(|state| state.grant = renewed);
        Ok(())
    }

    /// Whole seconds for which the grant in force is good.
    pub fn expires_in(&self) -> u64 {
        u64::try_from((self.state.borrow().grant.expires_at - self.clock.now()).whole_seconds()).unwrap_or(0)
    }

    /// Whether the grant in force has expired or was revoked, or an operator has ended the connection.
    pub fn is_over(&self) -> bool {
        let State { grant, ended } = &*self.state.borrow();
        *ended || grant.expires_at <= self.clock.now() || self.revocations.is_revoked(grant)
    }

    /// Whether an operator has ended the connection. Its account may come back.
    pub fn is_ended(&self) -> bool {
        self.state.borrow().ended
    }

    /// Counts records that went through the connection.
    pub fn count(&self, records: u64) {
        self.listed.count(records);
    }

    /// Returns when the grant in force expires or is revoked, however often it is renewed before, or an operator ends the connection.
    /// Cancel-safe.
    pub async fn over(&self) {
        let mut renewals = self.state.subscribe();
        loop {
            let grant = {
                let state = renewals.borrow_and_update();
                if state.ended {
                    return;
                }
                state.grant.clone()
            };
            let left = (grant.expires_at - self.clock.now()).try_into().unwrap_or(Duration::ZERO);
            tokio::select! {
                // First: the end of a grant means nothing once there is another. Cannot fail: the sender is in `self`.
                biased;
                _ = renewals.changed() => {}
                () = sleep(left) => return,
                () = self.revocations.revoked(&grant) => return,
            }
        }
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("user", &self.state.borrow().grant.user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use time::OffsetDateTime;

    use super::*;
    use crate::Scopes;
    use motience_proto::model::{LogId, Role, Transport, UserId};

    fn grant(user: i64, family: &str, clock: &Clock) -> Grant {
        Grant {
            user: UserId(user),
            log: LogId(1),
            username: "u".into(),
            role: Role::Consumer,
            device_id: None,
            strict_device: false,
            family: family.into(),
            scopes: Scopes::all(),
            issued_at: clock.now(),
            expires_at: clock.now() + Duration::from_secs(3600),
        }
    }

    fn client() -> Client {
        Client { transport: Transport::Quic, address: Some([10, 0, 0, 7].into()), device: Some("pi".into()) }
    }

    #[tokio::test]
    async fn one_connection_is_listed_and_ended_and_others_stay() {
        let (clock, _hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let (revocations, live) = (Revocations::new(clock.clone(), Duration::from_secs(3600)), LiveConnections::default());
        let enter = || Standing::new(grant(1, "first", &clock), client(), &live, revocations.clone(), clock.clone());
        let (first, other) = (enter(), enter());
        first.count(3);
        let listed = live.all();
        assert_eq!(listed.len(), 2);
        let shown = listed.iter().find(|one| one.records() == 3).unwrap();
        assert_eq!((&shown.client, shown.grant().user, shown.since), (&client(), UserId(1), OffsetDateTime::UNIX_EPOCH));
        let mut over = Box::pin(first.over());
        assert!(over.as_mut().now_or_never().is_none() && !live.end("another"));
        assert!(live.end(&shown.id));
        over.await;
        assert!(first.is_over() && first.is_ended() && !other.is_over() && !other.is_ended());
        assert_eq!(first.renew(grant(1, "second", &clock)), Ok(()), "a token changes nothing about it");
        assert!(first.is_over());
        drop((first, other));
        assert!(live.all().is_empty());
    }

    #[tokio::test]
    async fn it_ends_with_the_grant_in_force() {
        let (clock, _hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), Duration::from_secs(3600));
        let grant = |user, family: &str| grant(user, family, &clock);
        let live = LiveConnections::default();
        let standing = Standing::new(grant(1, "first"), client(), &live, revocations.clone(), clock.clone());
        let mut over = Box::pin(standing.over());
        assert!(over.as_mut().now_or_never().is_none() && !standing.is_over());
        assert_eq!(standing.renew(grant(2, "another")), Err(NotRenewed::Account));
        let less = Grant { scopes: "consume".parse().unwrap(), ..grant(1, "key:1") };
        assert_eq!(standing.renew(less), Err(NotRenewed::Less), "a key that allows less");
        assert_eq!(standing.renew(grant(1, "second")), Ok(()));
        revocations.revoke_family("first");
        assert!(over.as_mut().now_or_never().is_none() && !standing.is_over(), "it lives by the second one");
        revocations.revoke_family("second");
        assert!(standing.is_over());
        over.await;
    }
}
