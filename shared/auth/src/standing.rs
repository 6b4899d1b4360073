//! The standing of a live connection: the token that it showed last.
//!
//! Whoever serves a connection races [`Standing::over`] against all it does, first of all a write that its peer does not take,
//! and asks [`Standing::is_over`] before it hands over another record.

use std::{fmt, time::Duration};

use motience_runtime::clock::Clock;
use tokio::{sync::watch, time::sleep};

use super::{Grant, Revocations};

/// A connection's right to be there; renewed by another token of its account.
pub struct Standing {
    clock: Clock,
    revocations: Revocations,
    grant: watch::Sender<Grant>,
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
    /// Lives by this grant for now.
    pub fn new(grant: Grant, revocations: Revocations, clock: Clock) -> Self {
        Self { clock, revocations, grant: watch::Sender::new(grant) }
    }

    /// The grant in force.
    pub fn grant(&self) -> Grant {
        self.grant.borrow().clone()
    }

    /// Lives by another one from now on. Nothing happens where that is another account's, or allows less: what the connection was given the
    /// right to when it began is not asked for again.
    pub fn renew(&self, renewed: Grant) -> Result<(), NotRenewed> {
        {
            let grant = self.grant.borrow();
            if !renewed.is_of_same_account(&grant) {
                return Err(NotRenewed::Account);
            }
            if !renewed.scopes.cover(&grant.scopes) {
                return Err(NotRenewed::Less);
            }
        }
        self.grant.send_replace(renewed);
        Ok(())
    }

    /// Whole seconds for which the grant in force is good.
    pub fn expires_in(&self) -> u64 {
        u64::try_from((self.grant.borrow().expires_at - self.clock.now()).whole_seconds()).unwrap_or(0)
    }

    /// Whether the grant in force has expired or was revoked.
    pub fn is_over(&self) -> bool {
        let grant = self.grant.borrow();
        grant.expires_at <= self.clock.now() || self.revocations.is_revoked(&grant)
    }

    /// Returns when the grant in force expires or is revoked, however often it is renewed before. Cancel-safe.
    pub async fn over(&self) {
        let mut renewals = self.grant.subscribe();
        loop {
            let grant = renewals.borrow_and_update().clone();
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
        f.debug_struct("Standing").field("user", &self.grant.borrow().user).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use time::OffsetDateTime;

    use super::*;
    use crate::Scopes;
    use motience_proto::model::{LogId, Role, UserId};

    #[tokio::test]
    async fn it_ends_with_the_grant_in_force() {
        let (clock, _hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), Duration::from_secs(3600));
        let grant = |user, family: &str| Grant {
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
        };
        let standing = Standing::new(grant(1, "first"), revocations.clone(), clock.clone());
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
