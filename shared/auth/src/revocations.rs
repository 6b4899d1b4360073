//! Tokens that were revoked before their time, as this node knows them.
//!
//! Access tokens are checked without the database, so each node keeps the families and accounts that were ended, until the last
//! access token of theirs would have ended by itself. The truth is in the store and reaches the nodes over the bus.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
    time::Duration,
};

use motience_proto::model::{LogId, UserId};
use motience_runtime::clock::Clock;
use parking_lot::{Mutex, MutexGuard};
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{ExternalEnd, Grant};

/// Waiting connections are woken by group, so that one revocation does not wake every connection of a node.
const GROUPS: usize = 64;
/// How long it is remembered that an account is gone. Whoever connects is compared with the store in any case; this only reaches the
/// connections that live.
const GONE_FOR: Duration = Duration::from_secs(300);

/// The revoked families and accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    keep: Duration,
    entries: Mutex<Entries>,
    groups: Vec<watch::Sender<()>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Entries {
    /// Family -> when it can be forgotten.
    families: HashMap<String, OffsetDateTime>,
    /// Account -> the moment up to which its tokens are revoked, and when that can be forgotten.
    users: HashMap<UserId, (OffsetDateTime, OffsetDateTime)>,
    /// Account -> up to when its tokens of other issuers are revoked, and when that can be forgotten.
    externals: HashMap<UserId, (ExternalEnd, OffsetDateTime)>,
    /// Logs whose accounts are no more -> when that can be forgotten.
    logs: HashMap<LogId, OffsetDateTime>,
    /// Forget what can be forgotten when there are this many.
    sweep_at: usize,
}

impl Revocations {
    /// Nothing revoked. `keep` is the life of an access token: so long an entry matters.
    pub fn new(clock: Clock, keep: Duration) -> Self {
        Self(Arc::new(Inner {
            clock,
            keep,
            entries: Mutex::default(),
            groups: (0..GROUPS).map(|_| watch::Sender::new(())).collect(),
            hasher: RandomState::new(),
        }))
    }

    /// Ends the tokens of one login.
    pub fn revoke_family(&self, family: &str) {
        let until = self.0.clock.now() + self.0.keep;
        let mut entries = self.entries();
        entries.families.insert(family.to_owned(), until);
        entries.sweep(self.0.clock.now());
        drop(entries);
        self.group(family).send_replace(());
    }

    /// Ends the tokens that an account got before this second. Tokens tell their time to the second only: those of the second itself
    /// end with their families, so that a login right after the account is opened again is good.
    pub fn revoke_user(&self, user: UserId, moment: OffsetDateTime) {
        let now = self.0.clock.now();
        let mut entries = self.entries();
        let known = entries.users.get(&user).map(|&(known, _)| known);
        entries.users.insert(user, (known.map_or(moment, |known| known.max(moment)), now + self.0.keep));
        entries.sweep(now);
        drop(entries);
        // A revocation read from the store again must not wake anyone again.
        if known.is_none_or(|known| known < moment) {
            self.group(user).send_replace(());
        }
    }

    /// Ends an account's tokens of other issuers. Whoever connects later is compared with the store too, as such tokens may live for any time.
    pub fn end_external(&self, user: UserId, end: ExternalEnd) {
        let now = self.0.clock.now();
        let mut entries = self.entries();
        let known = entries.externals.get(&user).map(|&(known, _)| known);
        let newest = known.filter(|known| known.at > end.at).unwrap_or(end);
        entries.externals.insert(user, (newest, now + self.0.keep.max(GONE_FOR)));
        entries.sweep(now);
        drop(entries);
        // Read from the store again it must not wake anyone again.
        if known != Some(newest) {
            self.group(user).send_replace(());
        }
    }

    /// Ends the tokens of an account that is no more, or whose number is another's by now.
    pub fn end_account(&self, user: UserId, log: LogId) {
        let now = self.0.clock.now();
        let mut entries = self.entries();
        entries.logs.insert(log, now + GONE_FOR);
        entries.sweep(now);
        drop(entries);
        self.group(user).send_replace(());
    }

    /// Whether a grant was ended before its time.
    pub fn is_revoked(&self, grant: &Grant) -> bool {
        let entries = self.entries();
        if entries.logs.get(&grant.log).is_some_and(|until| *until > self.0.clock.now()) {
            return true;
        }
        // A login of the very second ends with its family. Tokens of another issuer have none of their own, so that second is revoked too.
        let before = |moment: OffsetDateTime| {
            let (issued, revoked) = (grant.issued_at.unix_timestamp(), moment.unix_timestamp());
            issued < revoked || (issued == revoked && grant.is_external())
        };
        if grant.is_external() && entries.externals.get(&grant.user).is_some_and(|(end, _)| end.ends(grant.issued_at)) {
            return true;
        }
        entries.families.contains_key(&grant.family) || entries.users.get(&grant.user).is_some_and(|&(moment, _)| before(moment))
    }

    /// Whether an account was closed at this moment or later, as far as this node knows: what was read of it at the moment may be old.
    pub fn is_user_revoked_since(&self, user: UserId, moment: OffsetDateTime) -> bool {
        self.entries().users.get(&user).is_some_and(|&(closed, _)| closed >= moment)
    }

    /// Whether a login was ended, as far as this node knows.
    pub fn is_family_revoked(&self, family: &str) -> bool {
        self.entries().families.contains_key(family)
    }

    /// Resolves when the grant is revoked, and at once where it already is. Cancel-safe.
    pub async fn revoked(&self, grant: &Grant) {
        let mut family = self.group(grant.family.as_str()).subscribe();
        let mut user = self.group(grant.user).subscribe();
        while !self.is_revoked(grant) {
            // The senders are in `self`, so neither channel closes.
            tokio::select! {
                _ = family.changed() => {}
                _ = user.changed() => {}
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock()
    }

    fn group(&self, key: impl Hash) -> &watch::Sender<()> {
        let hash = usize::try_from(self.0.hasher.hash_one(key) % GROUPS as u64).expect("less than the number of groups");
        &self.0.groups[hash]
    }
}

impl Entries {
    /// Forgets what has ended, each time the number has doubled: the cost is spread, and the memory bounded by what is alive.
    fn sweep(&mut self, now: OffsetDateTime) {
        if self.len() < self.sweep_at.max(1024) {
            return;
        }
        self.families.retain(|_, until| *until > now);
        self.users.retain(|_, (_, until)| *until > now);
        self.externals.retain(|_, (_, until)| *until > now);
        self.logs.retain(|_, until| *until > now);
        self.sweep_at = 2 * self.len();
    }

    fn len(&self) -> usize {
        self.families.len() + self.users.len() + self.externals.len() + self.logs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scopes;
    use motience_proto::model::Role;

    const HOUR: Duration = Duration::from_secs(3600);

    fn grant(user: i64, family: &str, issued_at: OffsetDateTime) -> Grant {
        Grant {
            user: UserId(user),
            username: "u".into(),
            role: Role::Consumer,
            device_id: None,
            strict_device: false,
            log: LogId(user.cast_unsigned() + 1000),
            family: family.into(),
            scopes: Scopes::all(),
            issued_at,
            expires_at: issued_at + HOUR,
        }
    }

    #[test]
    fn a_family_ends_and_others_do_not() {
        let (clock, _hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), HOUR);
        revocations.revoke_family("a");
        assert!(revocations.is_revoked(&grant(1, "a", clock.now())));
        assert!(!revocations.is_revoked(&grant(1, "b", clock.now())));
    }

    #[test]
    fn an_account_ends_up_to_the_moment() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), HOUR);
        let before = grant(1, "a", clock.now());
        hand.advance(Duration::from_millis(1500));
        let same_second = grant(1, "b", OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1));
        revocations.revoke_user(UserId(1), clock.now());
        assert!(revocations.is_revoked(&before));
        assert!(!revocations.is_revoked(&grant(2, "a", before.issued_at)));
        assert!(!revocations.is_revoked(&same_second), "its family tells");
        let external = Grant { family: crate::external_family(UserId(1)), ..same_second };
        assert!(revocations.is_revoked(&external), "no family of its own tells");
        // Read from the store later, it is the same moment still.
        hand.advance(Duration::from_secs(60));
        revocations.revoke_user(UserId(1), OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1500));
        assert!(!revocations.is_revoked(&grant(1, "c", OffsetDateTime::UNIX_EPOCH + Duration::from_secs(2))));
    }

    #[tokio::test]
    async fn tokens_of_other_issuers_end_apart_from_those_of_this_platform() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), Duration::from_secs(1));
        let external = |user, seconds| grant(user, &crate::external_family(UserId(user)), clock.now() + Duration::from_secs(seconds));
        let (old, kept, own) = (external(1, 0), external(1, 3), grant(1, "a", clock.now()));
        let waits = {
            let (revocations, old) = (revocations.clone(), old.clone());
            tokio::spawn(async move { revocations.revoked(&old).await })
        };
        let end = ExternalEnd { at: clock.now() + Duration::from_secs(5), kept: Some(kept.issued_at) };
        tokio::task::yield_now().await;
        revocations.end_external(UserId(1), end);
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("it is woken").unwrap();
        assert!(!revocations.is_revoked(&kept) && !revocations.is_revoked(&own) && !revocations.is_revoked(&external(2, 0)));
        assert!(!revocations.is_revoked(&external(1, 6)), "a newer login");
        // An older moment that comes late by another way changes nothing.
        revocations.end_external(UserId(1), ExternalEnd { at: clock.now() + Duration::from_secs(4), kept: None });
        assert!(!revocations.is_revoked(&kept));
        revocations.end_external(UserId(1), ExternalEnd { at: clock.now() + Duration::from_secs(7), kept: None });
        assert!(revocations.is_revoked(&kept));
        // Longer than a node takes an account for what it was, however short tokens of this platform live.
        hand.advance(GONE_FOR - Duration::from_secs(1));
        (0..2000).for_each(|n| revocations.revoke_family(&n.to_string()));
        assert!(revocations.is_revoked(&old));
    }

    #[test]
    fn an_account_that_is_no_more_ends_and_may_come_back() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), HOUR);
        let (old, new) = (grant(1, "a", clock.now()), Grant { log: LogId(7), ..grant(1, "b", clock.now()) });
        revocations.end_account(old.user, old.log);
        assert!(revocations.is_revoked(&old));
        assert!(!revocations.is_revoked(&new), "the number is another account's now");
        hand.advance(GONE_FOR);
        assert!(!revocations.is_revoked(&old), "the store decides");
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock, HOUR);
        for n in 0..2000 {
            revocations.revoke_family(&n.to_string());
            revocations.revoke_user(UserId(n), OffsetDateTime::UNIX_EPOCH);
        }
        hand.advance(2 * HOUR);
        for n in 0..10_000 {
            revocations.revoke_family(&format!("new {n}"));
        }
        let entries = revocations.entries();
        assert_eq!((entries.users.len(), entries.families.len()), (0, 10_000));
    }

    #[tokio::test]
    async fn a_waiting_connection_learns_of_it() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        let revocations = Revocations::new(clock.clone(), HOUR);
        let wait = |grant: Grant| {
            let revocations = revocations.clone();
            tokio::spawn(async move { revocations.revoked(&grant).await })
        };
        let (by_family, by_user) = (wait(grant(1, "a", clock.now())), wait(grant(2, "b", clock.now())));
        let untouched = wait(grant(3, "c", clock.now()));
        tokio::task::yield_now().await;
        hand.advance(Duration::from_secs(1));
        revocations.revoke_family("a");
        revocations.revoke_user(UserId(2), clock.now());
        for woken in [by_family, by_user, wait(grant(1, "a", OffsetDateTime::UNIX_EPOCH))] {
            tokio::time::timeout(Duration::from_secs(10), woken).await.expect("revoked in time").unwrap();
        }
        assert!(!untouched.is_finished());
        untouched.abort();
    }
}
