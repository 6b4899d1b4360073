//! Buckets of tokens: filled by the clock, or by slices that a node leases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use motience_proto::model::PlanLimits;
use parking_lot::{Mutex, RwLock};

use super::{Holder, Unit};

/// Part of a second's worth that a node leases at once.
pub const SLICE: u64 = 10;
/// Parts of a token that buckets count in, so that slow rates are exact too.
pub const PARTS: i64 = 1000;
/// Ticks without any use after which a bucket rests.
pub(super) const IDLE_TICKS: u64 = 20;
/// Ticks over which a node's own part of what is leased is averaged, about.
const MEMORY: f64 = 20.0;
/// Part of a rate that nodes have in equal shares while they cannot lease. The rest they have as they had it before.
const EQUAL: f64 = 0.1;

/// The plan and the buckets of one holder.
#[derive(Debug)]
pub(super) struct Buckets {
    pub(super) holder: Holder,
    plan: RwLock<PlanLimits>,
    /// The turn of the senders that wait for tokens: without an order one of many might wait too long.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) rates: [Arc<Bucket>; Unit::ALL.len()],
}

/// A bucket of tokens.
#[derive(Debug)]
pub struct Bucket {
    name: String,
    pub(super) unit: Unit,
    /// Tokens a second; 0: no limit.
    rate: AtomicU64,
    /// Parts of tokens; less than nothing is a debt.
    tokens: AtomicI64,
    /// Parts of tokens taken since the last tick, and parts that were wanted at once and not there.
    used: AtomicI64,
    wanted: AtomicI64,
    /// Tokens taken ever.
    pub(super) taken: AtomicU64,
    /// Whether ticks fill it.
    pub(super) active: AtomicBool,
    /// Ticks since the last use.
    pub(super) idle: AtomicU64,
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

impl Buckets {
    pub(super) fn new(holder: Holder) -> Self {
        let rates = Unit::ALL.map(|unit| {
            Arc::new(Bucket {
                name: format!("{holder}:{}", unit.as_str()),
                unit,
                rate: AtomicU64::new(0),
                tokens: AtomicI64::new(0),
                used: AtomicI64::new(0),
                wanted: AtomicI64::new(0),
                taken: AtomicU64::new(0),
                active: AtomicBool::new(false),
                idle: AtomicU64::new(0),
                leased: Mutex::default(),
            })
        });
        Self { holder, plan: RwLock::default(), turn: tokio::sync::Mutex::default(), rates }
    }

    pub(super) fn set(&self, plan: PlanLimits, shared: bool) {
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

    pub(super) fn limited(&self) -> u8 {
        self.rates.iter().filter(|bucket| bucket.rate() > 0).fold(0, |bits, bucket| bits | bucket.unit.bit())
    }

    pub(super) fn bucket(&self, unit: Unit) -> &Arc<Bucket> {
        &self.rates[unit as usize]
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
    pub(super) fn has(&self, cost: u64) -> Result<(), (u64, Duration)> {
        let (rate, tokens) = (self.rate(), self.tokens.load(Relaxed));
        if rate == 0 || tokens >= PARTS {
            return Ok(());
        }
        self.wanted.fetch_max(parts(cost), Relaxed);
        let missing = PARTS.saturating_sub(tokens).unsigned_abs();
        Err((rate, Duration::from_secs_f64(missing as f64 / PARTS as f64 / rate as f64)))
    }

    pub(super) fn take(&self, cost: u64) {
        self.taken.fetch_add(cost, Relaxed);
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
