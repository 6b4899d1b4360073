//! The rights of a consumer as the store has them: producers that it may read now, each within a scope, and until when.

use std::{collections::HashMap, sync::Arc};

use motience_limits::permits::GrantPermit;
use motience_proto::model::{ConsumerId, ProducerId, Status};
use motience_store::Right;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tracing::error;

use super::scope::{InvalidScope, Scope};
use crate::{Error, Relay, StartPosition};

/// The right to read one producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance {
    subscription: i64,
    /// `None`: everything.
    pub(super) scope: Option<Arc<Scope>>,
}

impl Allowance {
    /// Whether it lets through the same as another one. Scopes whose text has not changed are not compiled again.
    pub(super) fn is_like(&self, scope: Option<&Arc<Scope>>) -> bool {
        match (&self.scope, scope) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Takes what one more connection needs to receive by it; fails where its grant has no room for one, and tells `waiting` when it has.
    pub(super) fn hold(&self, relay: &Relay, waiting: &Arc<Notify>) -> Result<Held, ()> {
        let most = self.scope.as_ref().and_then(|scope| scope.connections());
        let permit = most.map(|most| relay.0.permits.grant(self.subscription, most, waiting)).transpose().map_err(drop)?;
        Ok(Held { scope: self.scope.clone(), _permit: permit })
    }
}

/// Parts of a follow that its right brings.
pub(super) struct Held {
    pub(super) scope: Option<Arc<Scope>>,
    /// To receive by a grant that limits how many connections do.
    _permit: Option<GrantPermit>,
}

impl Held {
    /// A start position that begins no earlier than the scope does by now.
    pub(super) fn bounded(&self, start: StartPosition, relay: &Relay) -> StartPosition {
        self.scope.as_ref().map_or(start, |scope| scope.bounded(start, relay.0.clock.now()))
    }
}

/// Producers that a consumer may read.
#[derive(Debug, Default)]
pub(super) struct Allowed {
    pub(super) of: HashMap<ProducerId, Allowance>,
    /// When the first of these rights ends by itself.
    pub(super) first_end: Option<OffsetDateTime>,
}

impl Allowed {
    /// Looks at the store, for the producers that are `wanted`. `known`: the scope that a producer had before.
    pub(super) async fn look(
        relay: &Relay,
        consumer: ConsumerId,
        wanted: impl Fn(ProducerId) -> bool,
        known: impl Fn(ProducerId) -> Option<Arc<Scope>>,
    ) -> Result<Self, Error> {
        let rights = relay.0.store.rights(consumer, relay.0.clock.now()).await.map_err(Error::store)?;
        let first_end = rights.iter().filter_map(|right| right.expires_at).min();
        let rights = rights.into_iter().filter(|right| wanted(right.producer));
        let of = rights.filter_map(|right| Some((right.producer, allowance(&right, known(right.producer))?))).collect();
        Ok(Self { of, first_end })
    }
}

/// The right to read one producer; `None`: there is none now.
pub(super) async fn look_at(relay: &Relay, consumer: ConsumerId, producer: ProducerId) -> Result<Option<Allowance>, Error> {
    let right = relay.0.store.right(consumer, producer, relay.0.clock.now()).await.map_err(Error::store)?;
    Ok(right.and_then(|right| allowance(&right, None)))
}

fn allowance(right: &Right, known: Option<Arc<Scope>>) -> Option<Allowance> {
    let scope = match &right.scope {
        None => None,
        Some(text) => Some(known.filter(|known| known.is_of(text)).or_else(|| compiled(right.subscription, text))?),
    };
    Some(Allowance { subscription: right.subscription, scope })
}

/// Nothing rather than too much where it cannot be read: a newer version has written it.
fn compiled(subscription: i64, text: &str) -> Option<Arc<Scope>> {
    let failed = |e: &InvalidScope| error!(subscription, error = %e, "the scope of a grant cannot be read; nothing is delivered by it");
    Scope::parse(text).map(Arc::new).inspect_err(failed).ok()
}

/// Why a consumer has no right to a producer any more, as far as the store says so.
pub(super) async fn state(relay: &Relay, consumer: ConsumerId, producer: ProducerId) -> Status {
    let state = relay.0.store.status(consumer, producer, relay.0.clock.now()).await;
    state.ok().flatten().unwrap_or(Status::Inactive)
}
