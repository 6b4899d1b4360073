//! Trims the history by bounds beside its age: rows of a plan, of a producer or of an organisation, and the shorter time of a class of devices.

use std::{collections::HashMap, time::Duration};

use motience_proto::model::{ProducerId, Role};
use motience_runtime::clock::Clock;
use motience_store::{self as store, ClassRetention, OwnRetention, Page, Store};
use time::OffsetDateTime;
use tracing::info;

use crate::{kept_together, retention_policy::Policy};

/// Rows may come so late into the history: a class's are looked for in that time before the last look.
const LATE: Duration = Duration::from_secs(3600);
/// How often they are looked for in all of the history, whose rows of other classes that reads through.
const ALL_EVERY: Duration = Duration::from_secs(86_400);

/// Trims by other bounds than age.
#[derive(Debug)]
pub(crate) struct OtherBounds {
    store: Store,
    clock: Clock,
    policy: Policy,
    /// When all of a producer's history was looked at last, and up to where any of it.
    looked: HashMap<ProducerId, Looked>,
}

#[derive(Clone, Debug)]
struct Looked {
    classes: Vec<ClassRetention>,
    all: OffsetDateTime,
    last: OffsetDateTime,
}

impl OtherBounds {
    pub(crate) fn new(store: Store, clock: Clock, policy: Policy) -> Self {
        Self { store, clock, policy, looked: HashMap::new() }
    }

    /// Removes what is beyond these bounds of all producers, a piece at a time, so that others have their turn.
    pub(crate) async fn round(&mut self) -> Result<(), store::Error> {
        let mut gone = self.classes().await?;
        let (assigned, default) = self.policy.quotas.assigned();
        if default.is_some_and(|plan| plan.history_rows.or(plan.total_history_rows).is_some()) {
            let mut page = Page::default();
            loop {
                let producers = self.store.users(Role::Producer, page).await?;
                for producer in &producers {
                    gone += self.rows(producer.id.producer()).await?;
                }
                if !page.turn(producers.len(), producers.last().map(|last| last.id.0)) {
                    break;
                }
            }
        } else {
            for user in assigned {
                gone += self.rows(user.producer()).await?;
            }
        }
        gone += self.together().await?;
        if gone > 0 {
            info!(rows = gone, "rows of the history beyond a plan, or of a class of devices, were removed");
        }
        Ok(())
    }

    async fn classes(&mut self) -> Result<u64, store::Error> {
        let mut own = self.store.retentions().await?;
        own.retain(|(_, own)| !own.classes.is_empty());
        self.looked.retain(|producer, _| own.iter().any(|(other, _)| other == producer));
        let mut gone = 0;
        for (producer, own) in own {
            gone += self.classes_of(producer, own).await?;
        }
        Ok(gone)
    }

    async fn classes_of(&mut self, producer: ProducerId, own: OwnRetention) -> Result<u64, store::Error> {
        let (now, mut gone) = (self.clock.now(), 0);
        let looked = self.looked.get(&producer).filter(|looked| looked.classes == own.classes && now - looked.all < ALL_EVERY).cloned();
        for class in &own.classes {
            let Some(age) = self.policy.history_age(Some(class.history_age)) else { continue };
            let since = looked.as_ref().map(|looked| looked.last - LATE - age);
            let before = now - age;
            gone += in_pieces(|| self.store.trim_history_class(producer, class, since, before)).await?;
        }
        let all = looked.map_or(now, |looked| looked.all);
        self.looked.insert(producer, Looked { classes: own.classes, all, last: now });
        Ok(gone)
    }

    /// Removes the oldest rows of a producer beyond what its plans allow.
    async fn rows(&self, producer: ProducerId) -> Result<u64, store::Error> {
        match self.policy.of(producer, &OwnRetention::default()).history_rows {
            Some(most) => self.rows_beyond(producer, most).await,
            None => Ok(0),
        }
    }

    /// Removes the oldest rows of those producers of an organisation that have the most, where all of them have more than its plan allows.
    async fn together(&self) -> Result<u64, store::Error> {
        let mut gone = 0;
        for (plan, accounts) in self.policy.quotas.organisations() {
            let Some(most) = plan.total_history_rows else { continue };
            let mut producers = Vec::new();
            for key in kept_together::producers(&self.store, &accounts).await? {
                producers.push((key.producer, self.store.history_size(key.producer).await?.0));
            }
            let part = kept_together::part(producers.iter().map(|(_, rows)| *rows).collect(), most);
            for (producer, _) in producers.into_iter().filter(|(_, rows)| *rows > part) {
                gone += self.rows_beyond(producer, part).await?;
            }
        }
        Ok(gone)
    }

    async fn rows_beyond(&self, producer: ProducerId, most: u64) -> Result<u64, store::Error> {
        let Some(id) = self.store.history_beyond(producer, most).await? else { return Ok(0) };
        in_pieces(|| self.store.trim_history_until(producer, id)).await
    }
}

/// Removes rows until a step finds no more, others having their turn between. Returns how many went.
pub(crate) async fn in_pieces<S: Future<Output = Result<u64, store::Error>>>(step: impl Fn() -> S) -> Result<u64, store::Error> {
    let mut gone = 0;
    loop {
        let rows = step().await?;
        gone += rows;
        if rows == 0 {
            return Ok(gone);
        }
        tokio::task::yield_now().await;
    }
}
