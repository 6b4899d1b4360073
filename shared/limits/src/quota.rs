//! Quotas: the limits that plans set for accounts and organisations, whatever transport their records and requests come by.
//!
//! A rate is a bucket of tokens. Once there is a whole token in it, more may be taken than it holds: the rest is a debt, which fills first. So a batch of any size passes, and the rate holds in the long run. An embedded node fills its buckets by the clock. Nodes of a
//! cluster share each bucket: a node leases slices of it ahead of their use, of at most [`SLICE`] of a second's worth, and only while somebody
//! uses it. Without an answer to its request a node fills its buckets by the part of the rate that was its own lately.
//!
//! An account without a plan costs one look at an atomic.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use motience_proto::model::{PlanLimits, UserId};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Part of a second's worth that a node leases at once.
pub const SLICE: u64 = 10;
/// Parts of a token that buckets count in, so that slow rates are exact too.
pub const PARTS: i64 = 1000;
/// Ticks without any use after which a bucket rests.
const IDLE_TICKS: u64 = 20;
/// Ticks over which a node's own part of what is leased is averaged, about.
const MEMORY: f64 = 20.0;
/// Part of a rate that nodes have in equal shares while they cannot lease. The rest they have as they had it before.
const EQUAL: f64 = 0.1;
/// Shortest and longest pause of a sender that waits for tokens.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Accounts after which those are forgotten that nobody uses.
const FIRST_SWEEP: usize = 1024;

/// A thing that is counted by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records taken in.
    Records,
    /// Bytes of records taken in.
    Bytes,
    /// Requests over HTTP.
    Requests,
    /// Records given out.
    RecordsOut,
    /// Bytes of records given out.
    BytesOut,
}

/// Units of records that are given out.
pub const OUT: [Unit; 2] = [Unit::RecordsOut, Unit::BytesOut];

impl Unit {
    const ALL: [Self; 5] = [Self::Records, Self::Bytes, Self::Requests, Self::RecordsOut, Self::BytesOut];

    /// The name in messages, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Requests => "requests",
            Self::RecordsOut => "records_out",
            Self::BytesOut => "bytes_out",
        }
    }

    /// The words in a sentence.
    fn words(self) -> &'static str {
        match self {
            Self::RecordsOut => "records given out",
            Self::BytesOut => "bytes given out",
            other => other.as_str(),
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn of(self, plan: &PlanLimits) -> u64 {
        match self {
            Self::Records => plan.records_per_second,
            Self::Bytes => plan.bytes_per_second,
            Self::Requests => plan.requests_per_second,
            Self::RecordsOut => plan.records_out_per_second,
            Self::BytesOut => plan.bytes_out_per_second,
        }
        .unwrap_or(0)
    }
}

/// Somebody with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An account.
    Account(UserId),
    /// An organisation, by its id, with all of its accounts.
    Organisation(Arc<str>),
}

impl Holder {
    fn word(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Organisation(_) => "organisation",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(user) => write!(f, "a:{user}"),
            Self::Organisation(id) => write!(f, "o:{id}"),
        }
    }
}

/// A rate of a plan is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan of this {holder} allows {rate} {} a second: come back in {} s", .unit.words(), .wait.as_secs() + u64::from(.wait.subsec_nanos() > 0))]
pub struct Exceeded {
    /// The unit.
    pub unit: Unit,
    /// `account` or `organisation`.
    pub holder: &'static str,
    /// How many a second the plan allows.
    pub rate: u64,
    /// When there is room again, as far as the node knows.
    pub wait: Duration,
}

impl Exceeded {
    /// How long to wait before another look: nodes may get their share earlier, or later.
    pub fn pause(&self) -> Duration {
        self.wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}

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

/// The plan and the buckets of one holder.
#[derive(Debug)]
struct Buckets {
    holder: Holder,
    plan: RwLock<PlanLimits>,
    /// The turn of the senders that wait for tokens: without an order one of many might wait too long.
    turn: tokio::sync::Mutex<()>,
    rates: [Arc<Bucket>; Unit::ALL.len()],
}

/// A bucket of tokens.
#[derive(Debug)]
pub struct Bucket {
    name: String,
    unit: Unit,
    /// Tokens a second; 0: no limit.
    rate: AtomicU64,
    /// Parts of tokens; less than nothing is a debt.
    tokens: AtomicI64,
    /// Parts of tokens taken since the last tick, and parts that were wanted at once and not there.
    used: AtomicI64,
    wanted: AtomicI64,
    /// Whether ticks fill it.
    active: AtomicBool,
    /// Ticks since the last use.
    idle: AtomicU64,
    leased: Mutex<Leased>,
}

#[derive(Debug, Default)]
struct Leased {
    /// Parts that were advanced before anything was leased.
    owed: i64,
    /// All that was ever leased from the shared bucket, when it answered last.
    total: Option<u64>,
    /// Parts leased by this node and by all nodes, of late.
    own: f64,
    all: f64,
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

impl Buckets {
    fn new(holder: Holder) -> Self {
        let rates = Unit::ALL.map(|unit| {
            Arc::new(Bucket {
                name: format!("{holder}:{}", unit.as_str()),
                unit,
                rate: AtomicU64::new(0),
                tokens: AtomicI64::new(0),
                used: AtomicI64::new(0),
                wanted: AtomicI64::new(0),
                active: AtomicBool::new(false),
                idle: AtomicU64::new(0),
                leased: Mutex::default(),
            })
        });
        Self { holder, plan: RwLock::default(), turn: tokio::sync::Mutex::default(), rates }
    }

    fn set(&self, plan: PlanLimits, shared: bool) {
        *self.plan.write() = plan;
        for bucket in &self.rates {
            let rate = bucket.unit.of(&plan);
            if bucket.rate.swap(rate, Relaxed) != rate {
                let mut leased = bucket.leased.lock();
                // A slice in advance, until the first lease comes.
                let full = if shared { bucket.slice() } else { bucket.whole() };
                leased.owed = if shared { full } else { 0 };
                bucket.tokens.store(full, Relaxed);
            }
        }
    }

    fn limited(&self) -> u8 {
        self.rates.iter().filter(|bucket| bucket.rate() > 0).fold(0, |bits, bucket| bits | bucket.unit.bit())
    }

    fn bucket(&self, unit: Unit) -> &Arc<Bucket> {
        &self.rates[unit as usize]
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

impl Bucket {
    /// Name under which nodes share it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens a second.
    pub fn rate(&self) -> u64 {
        self.rate.load(Relaxed)
    }

    /// Parts that a bucket of this node alone holds: a second's worth.
    fn whole(&self) -> i64 {
        parts(self.rate())
    }

    /// Parts that a node leases at once, at most; a token at least.
    fn slice(&self) -> i64 {
        (self.whole() / SLICE as i64).max(PARTS)
    }

    /// Whether a cost may be taken; otherwise the rate, and when to come back.
    fn has(&self, cost: u64) -> Result<(), (u64, Duration)> {
        let (rate, tokens) = (self.rate(), self.tokens.load(Relaxed));
        if rate == 0 || tokens >= PARTS {
            return Ok(());
        }
        self.wanted.fetch_max(parts(cost), Relaxed);
        let missing = PARTS.saturating_sub(tokens).unsigned_abs();
        Err((rate, Duration::from_secs_f64(missing as f64 / PARTS as f64 / rate as f64)))
    }

    fn take(&self, cost: u64) {
        let cost = parts(cost);
        self.tokens.fetch_sub(cost, Relaxed);
        self.used.fetch_add(cost, Relaxed);
    }

    /// Fills it by the clock.
    pub fn refill(&self, passed: Duration) {
        self.tick();
        self.fill(passed, 1.0);
    }

    /// Fills it by the clock with the part of the rate that was this node's lately: the shared bucket does not answer. `nodes`: how many there
    /// were.
    pub fn refill_alone(&self, passed: Duration, nodes: usize) {
        let part = {
            let leased = self.leased.lock();
            let equal = 1.0 / nodes.max(1) as f64;
            if leased.all > 0.0 { (1.0 - EQUAL) * (leased.own / leased.all).min(1.0) + EQUAL * equal } else { equal }
        };
        self.fill(passed, part);
    }

    fn fill(&self, passed: Duration, part: f64) {
        let whole = self.whole();
        let more = (whole as f64 * passed.as_secs_f64() * part) as i64;
        let most = ((whole as f64 * part) as i64).max(PARTS);
        let fill = |tokens: i64| (tokens < most).then(|| tokens.saturating_add(more).min(most));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, fill);
    }

    fn tick(&self) -> (i64, i64) {
        let (used, wanted) = (self.used.swap(0, Relaxed), self.wanted.swap(0, Relaxed));
        if used == 0 && wanted == 0 {
            self.idle.fetch_add(1, Relaxed);
        } else {
            self.idle.store(0, Relaxed);
        }
        (used, wanted)
    }

    /// Parts to be leased now; 0: none. Slices that are not used are dropped after a while, so that no node saves them up.
    pub fn ask(&self) -> u64 {
        let (used, wanted) = self.tick();
        let mut leased = self.leased.lock();
        let tokens = self.tokens.load(Relaxed);
        if used == 0 && wanted == 0 {
            if self.idle.load(Relaxed) == IDLE_TICKS && tokens > PARTS {
                self.tokens.fetch_sub(tokens - PARTS, Relaxed);
            }
            return if tokens < 0 { (leased.owed - tokens).unsigned_abs() } else { leased.owed.unsigned_abs() };
        }
        leased.owed = leased.owed.max(0);
        let target = used.saturating_mul(2).max(wanted).clamp(PARTS, self.slice());
        target.saturating_sub(tokens).max(0).saturating_add(leased.owed).unsigned_abs()
    }

    /// Takes what was leased: `granted` parts of the `asked`, of `total` parts that all nodes leased ever.
    pub fn granted(&self, granted: u64, total: u64) {
        let mut leased = self.leased.lock();
        let others = total.saturating_sub(leased.total.replace(total).unwrap_or(total.saturating_sub(granted)));
        let keep = 1.0 - 1.0 / MEMORY;
        leased.own = leased.own * keep + granted as f64;
        leased.all = leased.all * keep + others as f64;
        let granted = i64::try_from(granted).unwrap_or(i64::MAX);
        let paid = granted.min(leased.owed);
        leased.owed -= paid;
        self.tokens.fetch_add(granted - paid, Relaxed);
    }
}

fn parts(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX).min(i64::MAX / (4 * PARTS)) * PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId(7);
    const TICK: Duration = Duration::from_millis(50);

    fn plan(records: u64) -> PlanLimits {
        PlanLimits { records_per_second: Some(records), ..PlanLimits::default() }
    }

    fn assignments(own: Option<PlanLimits>, organisation: Option<PlanLimits>) -> Assignments {
        let assigned = Assigned { own, organisation: organisation.map(|plan| ("org".into(), plan)) };
        Assignments { accounts: [(USER, assigned.clone()), (UserId(8), assigned)].into(), default: None }
    }

    fn records(count: u64) -> [(Unit, u64); 1] {
        [(Unit::Records, count)]
    }

    #[test]
    fn without_a_plan_there_is_no_limit_and_with_one_it_holds_at_once() {
        let quotas = Quotas::default();
        let quota = quotas.of(USER);
        (0..1000).for_each(|_| quota.take(&records(1000)).unwrap());
        assert!(!quota.limits(Unit::ALL) && quotas.active().is_empty());
        quotas.assign(assignments(Some(plan(10)), None));
        quota.take(&records(25)).unwrap();
        let exceeded = quota.take(&records(1)).unwrap_err();
        assert_eq!(
            (exceeded.unit, exceeded.holder, exceeded.rate, exceeded.wait),
            (Unit::Records, "account", 10, Duration::from_millis(1600))
        );
        for bucket in quotas.active() {
            bucket.refill(Duration::from_millis(1600));
        }
        quota.take(&records(1)).unwrap();
        quotas.assign(Assignments::default());
        assert!(quota.take(&records(1000)).is_ok() && !quota.limits(Unit::ALL));
    }

    #[test]
    fn an_organisation_holds_all_its_accounts_to_one_rate() {
        let quotas = Quotas::default();
        quotas.assign(assignments(None, Some(plan(10))));
        let (first, second) = (quotas.of(USER), quotas.of(UserId(8)));
        first.take(&records(10)).unwrap();
        assert_eq!(second.take(&records(1)).unwrap_err().holder, "organisation");
        quotas.of(UserId(9)).take(&records(1000)).unwrap();
    }

    #[test]
    fn what_goes_in_and_what_goes_out_have_rates_of_their_own() {
        let quotas = Quotas::default();
        let plan = PlanLimits { bytes_out_per_second: Some(100), ..PlanLimits::default() };
        quotas.assign(assignments(Some(plan), None));
        let quota = quotas.of(USER);
        assert!(quota.limits(OUT) && !quota.limits([Unit::Records, Unit::Bytes, Unit::Requests]));
        let one = [(Unit::RecordsOut, 1), (Unit::BytesOut, 1)];
        quota.look(&one).unwrap();
        quota.charge(&[(Unit::RecordsOut, 1), (Unit::BytesOut, 150)]);
        let exceeded = quota.look(&one).unwrap_err();
        assert_eq!((exceeded.unit, exceeded.wait, exceeded.pause()), (Unit::BytesOut, Duration::from_millis(510), LONGEST_WAIT));
        assert!(exceeded.to_string().contains("allows 100 bytes given out a second"), "{exceeded}");
        quota.take(&[(Unit::Bytes, 1000)]).unwrap();
    }

    #[test]
    fn a_plan_named_default_holds_for_whoever_has_none() {
        let quotas = Quotas::default();
        quotas.assign(Assignments { default: Some(plan(1)), ..assignments(Some(plan(10)), None) });
        quotas.of(USER).take(&records(10)).unwrap();
        let other = quotas.of(UserId(99));
        other.take(&records(1)).unwrap();
        assert!(other.take(&records(1)).is_err());
    }

    #[tokio::test]
    async fn whoever_waits_is_let_in_by_the_clock() {
        let quotas = Quotas::default();
        quotas.assign(assignments(Some(plan(100)), None));
        let quota = quotas.of(USER);
        quota.take(&records(100)).unwrap();
        assert!(quota.admit(&records(1), Duration::from_millis(5)).await.is_err());
        let filler = async {
            loop {
                sleep(TICK).await;
                quotas.active().iter().for_each(|bucket| bucket.refill(TICK));
            }
        };
        let one = records(1);
        tokio::select! {
            outcome = quota.admit(&one, Duration::from_secs(60)) => outcome.unwrap(),
            () = filler => unreachable!("it never ends"),
        }
    }

    #[tokio::test]
    async fn who_began_to_wait_first_is_let_in_first() {
        let quotas = Quotas::default();
        quotas.assign(assignments(Some(plan(100)), Some(plan(100))));
        let (one, other) = (quotas.of(USER), quotas.of(UserId(8)));
        one.take(&records(110)).unwrap();
        let order = Mutex::new(Vec::new());
        let wait = async |who: &Quota, name| {
            who.admit(&records(20), Duration::from_secs(60)).await.unwrap();
            order.lock().push(name);
        };
        let filler = async {
            while order.lock().len() < 4 {
                sleep(Duration::from_millis(5)).await;
                quotas.active().iter().for_each(|bucket| bucket.refill(TICK));
            }
        };
        tokio::join!(wait(&one, 1), wait(&other, 2), wait(&other, 3), wait(&one, 4), filler);
        assert_eq!(*order.lock(), [1, 2, 3, 4]);
    }

    /// The shared bucket, as Redis has it: half a second's worth.
    struct Shared {
        available: f64,
        total: u64,
    }

    impl Shared {
        fn lease(&mut self, want: u64) -> (u64, u64) {
            let granted = if want as f64 <= self.available { want } else { (self.available / 2.0) as u64 };
            self.available -= granted as f64;
            self.total += granted;
            (granted, self.total)
        }
    }

    /// Records that three nodes let through in so many ticks; `away`: ticks in which the shared bucket does not answer.
    fn run(rate: u64, demand: [u64; 3], ticks: usize, away: std::ops::Range<usize>) -> u64 {
        let mut shared = Shared { available: rate as f64 * 500.0, total: 0 };
        let nodes: Vec<Quotas> = demand
            .iter()
            .map(|_| {
                let quotas = Quotas::default();
                quotas.share();
                quotas.assign(assignments(Some(plan(rate)), None));
                quotas
            })
            .collect();
        let held: Vec<Arc<Quota>> = nodes.iter().map(|quotas| quotas.of(USER)).collect();
        let mut passed = 0;
        for tick in 0..ticks {
            shared.available = (shared.available + rate as f64 * 1000.0 * TICK.as_secs_f64()).min(rate as f64 * 500.0);
            for turn in 0..3 {
                let node = (tick * 7 + turn) % 3;
                for _ in 0..demand[node] {
                    passed += u64::from(held[node].take(&records(1)).is_ok());
                }
                for bucket in nodes[node].active() {
                    let ask = bucket.ask();
                    if away.contains(&tick) {
                        bucket.refill_alone(TICK, 3);
                    } else if ask > 0 {
                        let (granted, total) = shared.lease(ask);
                        bucket.granted(granted, total);
                    }
                }
            }
        }
        passed
    }

    #[test]
    fn three_nodes_share_a_rate_and_are_wrong_by_a_tenth_at_most() {
        // Twenty ticks are a second; each node's demand is by tick.
        for (rate, demand, away) in [
            (1000, [100, 100, 100], 0..0),
            (1000, [200, 0, 0], 0..0),
            (1000, [150, 10, 0], 0..0),
            (20, [2, 2, 2], 0..0),
            (1000, [100, 100, 100], 100..400),
            (1000, [200, 0, 0], 100..400),
            (1000, [90, 30, 0], 100..400),
        ] {
            let passed = run(rate, demand, 400, away.clone());
            let right = rate * 20;
            assert!(passed * 10 >= right * 9 && passed * 10 <= right * 11, "{rate} {demand:?} {away:?}: {passed} for {right}");
        }
    }
}
