//! Attempts at acts that were refused, or that failed. A node gathers those that are alike for a minute and adds one line to the audit log for them:
//! so nobody fills the disk by trying, and no refusal waits for the database. A node that crashes loses what it has gathered.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use motience_proto::model::UserId;
use motience_runtime::{causes, clock::Clock};
use motience_store::{self as store, AuditHead, NewAct, Outcome, Store};
use parking_lot::Mutex;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{info, warn};

use crate::acts::account_object;

/// How long attempts are gathered.
const GATHERED_FOR: Duration = Duration::from_secs(60);
/// Kinds of attempts that are told apart in that time. All others make one line together.
const MOST: usize = 32;
/// How often the log tells where the chain stands, for whoever keeps logs where the database's owner does not reach.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

/// Attempts that are alike make one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The deed: a method and a route, such as `POST /login`.
    pub act: String,
    /// The thing that it would have changed: the path.
    pub object: String,
    /// The stable code of the refusal.
    pub code: &'static str,
    /// Whether it failed, and was not refused.
    pub failed: bool,
    /// Who asked, where that is known.
    pub account: Option<UserId>,
    /// The name of the account that was meant, as the client wrote it; kept only where there is such an account, since people type passwords here.
    pub meant: Option<String>,
    /// Address that it came from.
    pub address: IpAddr,
}

/// Attempts that this node has yet to record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Attempts {
    store: Store,
    clock: Clock,
    gathered: Arc<Mutex<Pending>>,
}

#[derive(Debug, Default)]
struct Pending {
    attempts: HashMap<Attempt, Times>,
    /// Attempts for which there was no room, of whatever kind.
    others: Option<Times>,
}

/// How often something happened, and when.
#[derive(Clone, Copy, Debug)]
struct Times {
    count: u64,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

impl Times {
    fn once_more(times: Option<Self>, now: OffsetDateTime) -> Self {
        times.map_or(Self { count: 1, first: now, last: now }, |times| Self { count: times.count + 1, last: now, ..times })
    }
}

impl Attempts {
    pub(crate) fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, gathered: Arc::default() }
    }

    /// Notes an attempt; the line comes within a minute.
    pub fn note(&self, attempt: Attempt) {
        let (now, mut gathered) = (self.clock.now(), self.gathered.lock());
        let known = gathered.attempts.get(&attempt).copied();
        if known.is_none() && gathered.attempts.len() >= MOST {
            gathered.others = Some(Times::once_more(gathered.others, now));
        } else {
            gathered.attempts.insert(attempt, Times::once_more(known, now));
        }
    }

    /// Records what was gathered so far.
    pub async fn record(&self) -> Result<(), store::Error> {
        let Pending { attempts, others } = std::mem::take(&mut *self.gathered.lock());
        for (attempt, times) in attempts {
            let meant = match &attempt.meant {
                Some(name) => self.store.credentials_meant(name).await?.map(|found| found.user.id),
                None => None,
            };
            let object = meant.map_or(attempt.object, account_object);
            let detail = json!({"code": attempt.code});
            let outcome = if attempt.failed { Outcome::Failed } else { Outcome::Refused };
            self.add((attempt.act, outcome), object, (attempt.account, meant), Some(attempt.address), (detail, times)).await?;
        }
        if let Some(times) = others {
            self.add(("others".to_owned(), Outcome::Refused), "request".to_owned(), (None, None), None, (json!({}), times)).await?;
        }
        Ok(())
    }

    async fn add(
        &self,
        (word, outcome): (String, Outcome),
        mut object: String,
        (actor, meant): (Option<UserId>, Option<UserId>),
        address: Option<IpAddr>,
        (mut detail, times): (serde_json::Value, Times),
    ) -> Result<(), store::Error> {
        let end = object.char_indices().nth(store::MAX_OBJECT).map_or(object.len(), |(at, _)| at);
        object.truncate(end);
        detail["count"] = times.count.into();
        if times.count > 1 {
            detail["since"] = times.first.format(&Rfc3339).unwrap_or_default().into();
        }
        let act = NewAct { at: times.last, actor, act: "", object, concerns: [meant, None], detail };
        self.store.record_attempts(&store::Attempts { act, word, outcome, address }).await
    }

    /// Records what is gathered, gives places to rows of older programs, and tells where the chain stands.
    pub(crate) async fn run(self) {
        let mut told: Option<(Instant, AuditHead)> = None;
        loop {
            let done = async {
                self.record().await?;
                self.store.chain_acts().await?;
                self.store.audit_head().await
            };
            match done.await {
                Ok(Some(head)) if told.as_ref().is_none_or(|(at, last)| at.elapsed() >= TOLD_EVERY && *last != head) => {
                    info!(lines = head.chain, hash = head.hash, "the audit log stands here");
                    told = Some((Instant::now(), head));
                }
                Ok(Some(_)) => {}
                Ok(None) => warn!("the head of the audit log is gone: somebody has changed the database (motience-server audit verify)"),
                Err(e) => warn!(error = causes(&e), "the audit log cannot be written; trying again"),
            }
            tokio::time::sleep(GATHERED_FOR).await;
        }
    }
}
