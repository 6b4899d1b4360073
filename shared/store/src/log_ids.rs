//! Which log each account has, as this node knows it: asked for once, then again every half minute for all that are known.
//!
//! As a rule an account never changes its log. Where the database is restored from a backup, accounts vanish, and their numbers may be
//! given to others: then what this node knows is wrong until it looks again, which the node that notices has all of them do at once.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use motience_proto::model::{LogId, LogKey, ProducerId, UserId};
use tokio::time::timeout;

use super::{Error, Store};

/// Accounts that are remembered.
const KNOWN: u64 = 100_000;
/// Accounts asked for in one query.
const AT_ONCE: usize = 500;
/// How long a token of an account that is no more is refused without asking again.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Longest wait for the database where a token is checked: what is signed is believed where nothing better is known.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// The known logs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogIds {
    store: Store,
    known: Cache<UserId, LogId>,
    refused: Cache<(UserId, LogId), ()>,
}

/// An account that had this log, and has it no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its number, which may be another's by now.
    pub user: UserId,
    /// Its log.
    pub log: LogId,
}

impl LogIds {
    /// Those of the accounts in `store`; none is known yet.
    pub fn new(store: Store) -> Self {
        let refused = Cache::builder().max_capacity(KNOWN).time_to_live(REFUSED_FOR).build();
        Self { store, known: Cache::new(KNOWN), refused }
    }

    /// A producer's log. A number that is no account's has the log that bears it, which nobody is given.
    pub async fn of(&self, producer: ProducerId) -> Result<LogKey, Arc<Error>> {
        let user = producer.user();
        if let Some(log) = self.known.get(&user).await {
            return Ok(LogKey { producer, log });
        }
        let Some(log) = self.store.log_id(user).await.map_err(Arc::new)? else { return Ok(LogKey::numbered(producer)) };
        self.known.insert(user, log).await;
        Ok(LogKey { producer, log })
    }

    /// Asks for all of these that are not known, in few queries.
    pub async fn prepare(&self, producers: impl IntoIterator<Item = ProducerId>) -> Result<(), Arc<Error>> {
        let unknown: Vec<UserId> = producers.into_iter().map(ProducerId::user).filter(|user| !self.known.contains_key(user)).collect();
        if unknown.len() > 1 {
            for some in unknown.chunks(AT_ONCE) {
                for (user, log) in self.store.log_ids(some).await.map_err(Arc::new)? {
                    self.known.insert(user, log).await;
                }
            }
        }
        Ok(())
    }

    /// Whether `log` is the present log of `user`. Where the database is away, that of a token is believed unless better is known: it is
    /// signed, and what it lets its holder write goes to that very log.
    pub async fn is_present(&self, user: UserId, log: LogId) -> bool {
        let known = self.known.get(&user).await;
        if known == Some(log) {
            return true;
        }
        if self.refused.contains_key(&(user, log)) {
            return false;
        }
        match timeout(ASK_LIMIT, self.store.log_id(user)).await {
            Ok(Ok(Some(found))) => {
                self.known.insert(user, found).await;
                if found != log {
                    self.refused.insert((user, log), ()).await;
                }
                found == log
            }
            Ok(Ok(None)) => {
                self.known.remove(&user).await;
                self.refused.insert((user, log), ()).await;
                false
            }
            Ok(Err(_)) | Err(_) => known.is_none(),
        }
    }

    /// Takes the log of an account that was just made; gives the one that its number had before, if that was known.
    pub async fn learn(&self, user: UserId, log: LogId) -> Option<Gone> {
        let before = self.known.get(&user).await;
        self.known.insert(user, log).await;
        self.refused.invalidate(&(user, log)).await;
        before.filter(|before| *before != log).map(|log| Gone { user, log })
    }

    /// Asks again for all that are known, and names those that are no more.
    pub async fn refresh(&self) -> Result<Vec<Gone>, Error> {
        let known: Vec<(UserId, LogId)> = self.known.iter().map(|(user, log)| (*user, log)).collect();
        let mut gone = Vec::new();
        for some in known.chunks(AT_ONCE) {
            let users: Vec<UserId> = some.iter().map(|(user, _)| *user).collect();
            let found: std::collections::HashMap<UserId, LogId> = self.store.log_ids(&users).await?.into_iter().collect();
            for &(user, log) in some {
                match found.get(&user) {
                    Some(found) if *found == log => continue,
                    Some(found) => self.known.insert(user, *found).await,
                    None => self.known.invalidate(&user).await,
                }
                gone.push(Gone { user, log });
            }
        }
        Ok(gone)
    }
}
