//! The end of an account: closed at once, and everything of it erased in the background, by one node.
//!
//! A first round begins at once, a last one when whatever was on its way has arrived. In between the account is noted in the store, so that a
//! node that crashes leaves the rest to another.

use std::{sync::Arc, time::Duration};

use motience_auth::Revocations;
use motience_cluster::{self as cluster, Event, Reports};
use motience_log::Log;
use motience_proto::model::{LogKey, UserId};
use motience_runtime::{causes, clock::Clock};
use motience_store::{Page, Store, Wanted};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::Error;

/// After this nothing of an account that has ended is on its way any more: no connection, no batch, no page of its history.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Pause between two rounds.
const LOOKS_EVERY: Duration = Duration::from_secs(30);
/// How long one node has the lease of this work.
const LEASE: Duration = Duration::from_secs(120);

/// Erases accounts that have ended.
pub(crate) struct Eraser {
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) revocations: Revocations,
    pub(crate) reports: Reports,
    pub(crate) clock: Clock,
    /// The node's name.
    pub(crate) node: String,
    /// Told when an account has ended at this node.
    pub(crate) ended: Arc<Notify>,
}

impl Eraser {
    /// Looks for accounts to be erased, at once when one has ended here and again and again for those that other nodes left.
    pub(crate) async fn run(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOKS_EVERY) => {}
                () = self.ended.notified() => {}
            }
            if let Err(e) = self.round().await {
                warn!(error = causes(&e), "accounts that have ended cannot be erased; trying again");
            }
        }
    }

    /// One round over all accounts that are to be erased.
    async fn round(&self) -> Result<(), Error> {
        let erasures = self.store.erasures().await.map_err(failed)?;
        if erasures.is_empty() || !self.store.lease("erasure", &self.node, LEASE, self.clock.now()).await.map_err(failed)? {
            return Ok(());
        }
        for (key, asked_at) in erasures {
            // The others do not wait for one whose log or rows cannot be had.
            if let Err(e) = self.end(key, asked_at).await {
                warn!(error = causes(&e), user = %key.producer, "an account that has ended cannot be erased; trying again");
            }
        }
        self.store.release("erasure", &self.node).await.map_err(failed)
    }

    /// Erases one, for the last time once nothing of it is on its way any more.
    async fn end(&self, key: LogKey, asked_at: OffsetDateTime) -> Result<(), Error> {
        let settled = self.clock.now() - asked_at >= SETTLED_AFTER;
        self.erase(key).await?;
        if settled {
            self.store.end_erasure(key.producer.user()).await.map_err(failed)?;
            info!(user = %key.producer, "an account was erased");
        }
        Ok(())
    }

    async fn erase(&self, key: LogKey) -> Result<(), Error> {
        let user = key.producer.user();
        let ended = self.subscriptions(user).await?;
        self.log.erase(key).await?;
        self.store.erase_rows(user).await.map_err(failed)?;
        self.revocations.end_account(user, key.log);
        self.reports.devices.forget(key);
        for event in ended {
            if let Err(e) = cluster::broadcast(&self.log, &event).await {
                warn!(error = %e, "cannot notify the other nodes of an ended subscription");
            }
        }
        Ok(())
    }

    /// Notices of the subscriptions that end with the account.
    async fn subscriptions(&self, user: UserId) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for of_consumer in [true, false] {
            let mut page = Page::default();
            loop {
                let subscriptions = if of_consumer {
                    self.store.subscriptions_of(user.consumer(), Wanted::All, page, self.clock.now()).await
                } else {
                    self.store.subscribers_of(user.producer(), Wanted::All, page, self.clock.now()).await
                };
                let subscriptions = subscriptions.map_err(failed)?;
                events.extend(subscriptions.iter().map(|one| Event::Unsubscribed { consumer: one.consumer_id, producer: one.producer_id }));
                if !page.turn(subscriptions.len(), subscriptions.last().map(|last| last.id)) {
                    break;
                }
            }
        }
        Ok(events)
    }
}

fn failed(source: motience_store::Error) -> Error {
    Error::Store { place: "of the accounts".to_owned(), source }
}
