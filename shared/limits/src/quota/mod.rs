//! Quotas: the limits that plans set for accounts and organisations, whatever transport their records and requests come by.
//!
//! A rate is a bucket of tokens. Once there is a whole token in it, more may be taken than it holds: the rest is a debt, which fills first. So a
//! batch of any size passes, and the rate holds in the long run. An embedded node fills its buckets by the clock. Nodes of a cluster share each
//! bucket: a node leases slices of it ahead of their use, of at most [`SLICE`] of a second's worth, and only while somebody uses it. Without an
//! answer to its request a node fills its buckets by the part of the rate that was its own lately.
//!
//! An account without a plan costs one look at an atomic.

mod bucket;
#[cfg(test)]
mod tests;
mod unit;

pub use self::{
    bucket::{Bucket, PARTS, SLICE},
    unit::{Exceeded, Holder, OUT, Unit},
};

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use motience_proto::model::{PlanLimits, UserId};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use bucket::{Buckets, IDLE_TICKS};

/// Accounts after which those are forgotten that nobody uses.
const FIRST_SWEEP: usize = 1024;

/// The plans that hold for an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Its own.
    pub own: Option<PlanLimits>,
    /// The organisation that owns it, and the plan of that.
    pub organisation: Option<(Arc<str>, PlanLimits)>,
}

/// All plans that are assigned.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    /// By account.
    pub accounts: HashMap<UserId, Assigned>,
    /// The plan of accounts that have none of their own.
    pub default: Option<PlanLimits>,
}

/// The quotas of one node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether buckets are filled by leases.
    shared: AtomicBool,
    known: Mutex<Known>,
    active: Mutex<Vec<Arc<Bucket>>>,
    /// Told when a bucket begins to be used.
    used: Notify,
}

#[derive(Debug, Default)]
struct Known {
    assignments: Assignments,
    quotas: HashMap<UserId, Weak<Quota>>,
    holders: HashMap<Holder, Arc<Buckets>>,
    sweep_at: usize,
}

/// The quota of one account: its own plan and that of its organisation.
#[derive(Debug)]
pub struct Quota {
    quotas: Quotas,
    /// The units whose rates hold, a bit for each.
    limited: AtomicU8,
    parts: RwLock<Vec<Arc<Buckets>>>,
}

impl Quotas {
    /// Says that several nodes share the buckets.
    pub fn share(&self) {
        self.0.shared.store(true, Relaxed);
    }

    /// Whether several nodes share the buckets.
    pub fn are_shared(&self) -> bool {
        self.0.shared.load(Relaxed)
    }

    /// The quota of an account.
    pub fn of(&self, user: UserId) -> Arc<Quota> {
        let mut known = self.0.known.lock();
        if let Some(quota) = known.quotas.get(&user).and_then(Weak::upgrade) {
            return quota;
        }
        let parts = known.parts(user, self.are_shared());
        let quota = Arc::new(Quota { quotas: self.clone(), limited: AtomicU8::new(limited(&parts)), parts: RwLock::new(parts) });
        if known.quotas.len() >= known.sweep_at {
            known.quotas.retain(|_, quota| quota.strong_count() > 0);
            // Buckets that rest are full, as new ones are.
            known
                .holders
                .retain(|_, buckets| Arc::strong_count(buckets) > 1 || buckets.rates.iter().any(|bucket| bucket.active.load(Relaxed)));
            known.sweep_at = (2 * known.quotas.len()).max(FIRST_SWEEP);
        }
        known.quotas.insert(user, Arc::downgrade(&quota));
        quota
    }

    /// The accounts to which plans are assigned, and the plan of all others.
    pub fn assigned(&self) -> (Vec<UserId>, Option<PlanLimits>) {
        let known = self.0.known.lock();
        (known.assignments.accounts.keys().copied().collect(), known.assignments.default)
    }

    /// The plans that hold for an account: its own, and that of its organisation.
    pub fn plans(&self, user: UserId) -> Vec<(Holder, PlanLimits)> {
        self.0.known.lock().holders_of(user)
    }

    /// The plans of organisations, each with the accounts that the organisation owns.
    pub fn organisations(&self) -> Vec<(PlanLimits, Vec<UserId>)> {
        let known = self.0.known.lock();
        let mut owned: HashMap<&str, (PlanLimits, Vec<UserId>)> = HashMap::new();
        for (&user, assigned) in &known.assignments.accounts {
            if let Some((id, plan)) = &assigned.organisation {
                owned.entry(id).or_insert_with(|| (*plan, Vec::new())).1.push(user);
            }
        }
        owned.into_values().collect()
    }

    /// Tokens that the accounts of each organisation have taken on this node, by the names of the limits of its plan. Counts may begin anew.
    pub fn taken(&self) -> Vec<(Arc<str>, BTreeMap<&'static str, u64>)> {
        let known = self.0.known.lock();
        let organisations = known.holders.iter().filter_map(|(holder, buckets)| match holder {
            Holder::Organisation(id) => Some((Arc::clone(id), buckets)),
            Holder::Account(_) => None,
        });
        let taken = |buckets: &Buckets| {
            let limited = buckets.rates.iter().filter(|bucket| bucket.rate() > 0);
            limited.map(|bucket| (bucket.unit.limit(), bucket.taken.load(Relaxed))).collect()
        };
        organisations.map(|(id, buckets)| (id, taken(buckets))).collect()
    }

    /// Sets which plans hold from now on, for connections that live too.
    pub fn assign(&self, assignments: Assignments) {
        let shared = self.are_shared();
        let mut known = self.0.known.lock();
        known.assignments = assignments;
        let live: Vec<(UserId, Arc<Quota>)> = known.quotas.iter().filter_map(|(&user, quota)| Some((user, quota.upgrade()?))).collect();
        for (user, quota) in live {
            let parts = known.parts(user, shared);
            let limited = limited(&parts);
            *quota.parts.write() = parts;
            quota.limited.store(limited, Relaxed);
        }
        let Known { assignments, holders, .. } = &mut *known;
        let organisations: std::collections::HashSet<&str> =
            assignments.accounts.values().filter_map(|one| Some(&*one.organisation.as_ref()?.0)).collect();
        holders.retain(|holder, _| match holder {
            Holder::Account(user) => assignments.default.is_some() || assignments.accounts.get(user).is_some_and(|one| one.own.is_some()),
            Holder::Organisation(id) => organisations.contains(&**id),
        });
    }

    /// Buckets in use, which a tick fills. Those that nobody used for a while rest from now on.
    pub fn active(&self) -> Vec<Arc<Bucket>> {
        let mut active = self.0.active.lock();
        active.retain(|bucket| {
            let rests = bucket.idle.load(Relaxed) > IDLE_TICKS;
            if rests {
                bucket.active.store(false, Relaxed);
            }
            !rests
        });
        active.clone()
    }

    /// Returns once some bucket is in use. Cancel-safe.
    pub async fn used(&self) {
        loop {
            let used = self.0.used.notified();
            if !self.0.active.lock().is_empty() {
                return;
            }
            used.await;
        }
    }

    fn activate(&self, bucket: &Arc<Bucket>) {
        bucket.idle.store(0, Relaxed);
        if !bucket.active.load(Relaxed) && !bucket.active.swap(true, Relaxed) {
            self.0.active.lock().push(Arc::clone(bucket));
            self.0.used.notify_waiters();
        }
    }
}

impl Known {
    fn holders_of(&self, user: UserId) -> Vec<(Holder, PlanLimits)> {
        let assigned = self.assignments.accounts.get(&user);
        let own = assigned.and_then(|one| one.own).or(self.assignments.default);
        let organisation = assigned.and_then(|one| one.organisation.clone());
        let own = own.map(|plan| (Holder::Account(user), plan));
        own.into_iter().chain(organisation.map(|(id, plan)| (Holder::Organisation(id), plan))).collect()
    }

    fn parts(&mut self, user: UserId, shared: bool) -> Vec<Arc<Buckets>> {
        let holders = self.holders_of(user);
        let part = |(holder, plan): (Holder, PlanLimits)| {
            let buckets = self.holders.entry(holder.clone()).or_insert_with(|| Arc::new(Buckets::new(holder)));
            buckets.set(plan, shared);
            Arc::clone(buckets)
        };
        holders.into_iter().map(part).collect()
    }
}

fn limited(parts: &[Arc<Buckets>]) -> u8 {
    parts.iter().fold(0, |bits, part| bits | part.limited())
}

impl Quota {
    /// Whether a rate holds for any of these units.
    pub fn limits(&self, units: impl IntoIterator<Item = Unit>) -> bool {
        let limited = self.limited.load(Relaxed);
        limited != 0 && units.into_iter().any(|unit| limited & unit.bit() != 0)
    }

    /// Takes so much of each unit, if there is a token for each.
    pub fn take(&self, costs: &[(Unit, u64)]) -> Result<(), Exceeded> {
        self.look(costs)?;
        self.charge(costs);
        Ok(())
    }

    /// Whether there is a token for each unit that costs something. Nothing is taken.
    pub fn look(&self, costs: &[(Unit, u64)]) -> Result<(), Exceeded> {
        self.each(costs, |part, bucket, cost| {
            let (rate, wait) = match bucket.has(cost) {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            };
            self.quotas.activate(bucket);
            let (unit, holder) = (bucket.unit, part.holder.word());
            metrics::counter!("motience_quota_exceeded_total", "unit" => unit.as_str(), "holder" => holder).increment(1);
            Err(Exceeded { unit, holder, rate, wait })
        })
    }

    /// Takes so much of each unit, whether or not it is there: what is missing is a debt.
    pub fn charge(&self, costs: &[(Unit, u64)]) {
        let Ok(()) = self.each(costs, |_, bucket, cost| {
            bucket.take(cost);
            self.quotas.activate(bucket);
            Ok::<(), Infallible>(())
        });
    }

    /// Goes through the buckets that hold for these costs.
    fn each<E>(&self, costs: &[(Unit, u64)], mut go: impl FnMut(&Buckets, &Arc<Bucket>, u64) -> Result<(), E>) -> Result<(), E> {
        if !self.limits(costs.iter().map(|(unit, _)| *unit)) {
            return Ok(());
        }
        for part in self.parts.read().iter() {
            for &(unit, cost) in costs.iter().filter(|(_, cost)| *cost > 0) {
                let bucket = part.bucket(unit);
                if bucket.rate() > 0 {
                    go(part, bucket, cost)?;
                }
            }
        }
        Ok(())
    }

    /// Takes so much of each unit; waits for the tokens where they come within `patience`, in the order in which the senders of a holder began to
    /// wait. Cancel-safe.
    pub async fn admit(&self, costs: &[(Unit, u64)], patience: Duration) -> Result<(), Exceeded> {
        if !self.limits(costs.iter().map(|(unit, _)| *unit)) {
            return Ok(());
        }
        let begun = Instant::now();
        // Where an organisation has a plan, all of its senders wait in one line.
        let widest = self.parts.read().last().map(Arc::clone);
        let _turn = match &widest {
            Some(part) => match timeout(patience, part.turn.lock()).await {
                Ok(turn) => Some(turn),
                Err(_) => return self.take(costs),
            },
            None => None,
        };
        loop {
            match self.take(costs) {
                Err(exceeded) if begun.elapsed() + exceeded.wait <= patience => sleep(exceeded.pause()).await,
                outcome => return outcome,
            }
        }
    }
}
