//! Keys of programs, as this node knows them: each looked up once, by its hash, and kept until it is revoked.
//!
//! A revocation reaches the node over the bus like that of a login, as the family of the key, and is looked for in the store every half
//! minute. A text that is no key costs one query in a while, however often it is shown, and only a few queries run at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use motience_auth::{self as auth, Grant, Revocations, SecretKind, key_family};
use motience_runtime::clock::{Clock, millis};
use motience_store::{self as store, Key, Store};
use tracing::warn;

use super::lookups::Lookups;

/// Keys that are remembered, and texts that are known to be none.
const KNOWN: u64 = 100_000;
/// How long a text that is no key is refused without another look. A key that was just made elsewhere was never refused before.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Longest wait for a look at the database.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// Keys asked for in one query.
const AT_ONCE: usize = 500;
/// How exactly the last use is stored, in milliseconds.
const USE_GRAIN: i64 = 60_000;
/// The end of a key that has none. Connections that live so long begin again.
const ENDLESS: time::Duration = time::Duration::days(3650);

/// The known keys. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    store: Store,
    clock: Clock,
    /// By hash.
    known: Cache<String, Arc<Known>>,
    unknown: Cache<String, ()>,
    lookups: Lookups,
}

#[derive(Debug)]
struct Known {
    id: String,
    grant: Grant,
    endless: bool,
    /// The last use, and the last use that is stored, in milliseconds since 1970.
    used: AtomicI64,
    stored: AtomicI64,
}

impl Keys {
    /// Those in `store`; none is known yet.
    pub(crate) fn new(store: Store, clock: Clock) -> Self {
        let unknown = Cache::builder().max_capacity(KNOWN).time_to_live(REFUSED_FOR).build();
        Self { store, clock, known: Cache::new(KNOWN), unknown, lookups: Lookups::new("key", LOOKUP_LIMIT) }
    }

    /// The grant of a key, expired or revoked though it may be by now; `Ok(None)` where the text is no key at all but something else.
    pub(crate) async fn grant(&self, text: &str) -> Result<Option<Grant>, auth::Error> {
        if !SecretKind::Key.begins(text) {
            return Ok(None);
        }
        let hash = SecretKind::Key.hash(text).ok_or(auth::Error::Invalid)?;
        if self.unknown.contains_key(&hash) {
            return Err(auth::Error::Invalid);
        }
        // Those who show one key at the same moment wait for one lookup. On the heap: each task that checks any token would have room for it.
        let known = Box::pin(self.known.try_get_with(hash.clone(), self.look_up(&hash))).await.map_err(|e| *e)?;
        let now = self.clock.now();
        known.used.store(millis(now), Ordering::Relaxed);
        let mut grant = known.grant.clone();
        if known.endless {
            grant.expires_at = now + ENDLESS;
        }
        if grant.expires_at <= now { Err(auth::Error::Expired) } else { Ok(Some(grant)) }
    }

    async fn look_up(&self, hash: &str) -> Result<Arc<Known>, auth::Error> {
        let Some((key, user)) = self.lookups.look(self.store.key_by_hash(hash)).await? else {
            self.unknown.insert(hash.to_owned(), ()).await;
            metrics::counter!("motience_keys_unknown_total").increment(1);
            return Err(auth::Error::Invalid);
        };
        let now = self.clock.now();
        if key.last_used_at.is_none_or(|at| millis(now) - millis(at) >= USE_GRAIN)
            && let Err(e) = self.store.touch_keys(std::slice::from_ref(&key.id), now).await
        {
            warn!(error = %e, "the use of a key cannot be noted");
        }
        let Key { id, scopes, created_at, expires_at, .. } = key;
        let grant = Grant {
            user: user.id,
            username: user.username,
            role: user.role,
            device_id: user.device_id,
            strict_device: user.strict_device,
            log: user.log,
            family: key_family(&id),
            scopes,
            issued_at: created_at,
            expires_at: expires_at.unwrap_or(created_at),
        };
        let [used, stored] = [millis(now); 2].map(AtomicI64::new);
        Ok(Arc::new(Known { id, grant, endless: expires_at.is_none(), used, stored }))
    }

    /// Ends the keys that are known here and no longer in the store, and stores when the others were used.
    pub(crate) async fn refresh(&self, revocations: &Revocations) -> Result<(), store::Error> {
        let known: Vec<(Arc<String>, Arc<Known>)> = self.known.iter().collect();
        for some in known.chunks(AT_ONCE) {
            let ids: Vec<String> = some.iter().map(|(_, key)| key.id.clone()).collect();
            let present = self.store.present_keys(&ids).await?;
            let mut used = Vec::new();
            for (hash, key) in some {
                if !present.contains(&key.id) {
                    revocations.revoke_family(&key.grant.family);
                    self.known.invalidate(&**hash).await;
                } else if key.used.load(Ordering::Relaxed) - key.stored.load(Ordering::Relaxed) >= USE_GRAIN {
                    used.push(key);
                }
            }
            if !used.is_empty() {
                let ids: Vec<String> = used.iter().map(|key| key.id.clone()).collect();
                self.store.touch_keys(&ids, self.clock.now()).await?;
                used.iter().for_each(|key| key.stored.store(key.used.load(Ordering::Relaxed), Ordering::Relaxed));
            }
        }
        Ok(())
    }
}
