//! The rights of a consumer as the store has them: producers that it may read now, each within a scope, and until when.

use std::{collections::HashMap, sync::Arc};

use motience_limits::permits::GrantPermit;
use motience_proto::model::{ConsumerId, ProducerId, Status};
use motience_store::Right;
use time::OffsetDateTime;
use tracing::error;

use super::scope::Scope;
use crate::{Error, Relay};

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

    /// The permit to receive by it on one more connection: `Ok(None)` where its grant sets no limit.
    pub(super) fn permit(&self, relay: &Relay) -> Result<Option<GrantPermit>, ()> {
        let most = self.scope.as_ref().and_then(|scope| scope.connections());
        most.map(|most| relay.0.permits.grant(self.subscription, most)).transpose().map_err(drop)
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
    /// Looks at the store. `known`: the scope that a producer had before.
    pub(super) async fn look(relay: &Relay, consumer: ConsumerId, known: impl Fn(ProducerId) -> Option<Arc<Scope>>) -> Result<Self, Error> {
        let rights = relay.0.store.rights(consumer, relay.0.clock.now()).await.map_err(Error::store)?;
        let first_end = rights.iter().filter_map(|right| right.expires_at).min();
        let of = rights.into_iter().filter_map(|right| Some((right.producer, allowance(&right, known(right.producer))?))).collect();
        Ok(Self { of, first_end })
    }
}

/// The right to read one producer; `None`: there is none now.
pub(super) async fn look_at(relay: &Relay, consumer: ConsumerId, producer: ProducerId) -> Result<Option<Allowance>, Error> {
    let right = relay.0.store.right(consumer, producer, relay.0.clock.now()).await.map_err(Error::store)?;
    Ok(right.and_then(|right| allowance(&right, None)))
}

fn allowance(right: &Right, known: Option<Arc<Scope>>) -> Option<Allowance> {
    let compiled = |text: &str| {
        match known {
        Some(known) if known.is_of(text) => Some(known),
        _ => Scope::parse(text)
            .map(Arc::new)
            // Nothing rather than too much: a newer version has written it.
            .inspect_err(|e| error!(subscription = right.subscription, error = %e, "the scope of a grant cannot be read; nothing is delivered by it"))
            .ok(),
    }
    };
    let scope = match right.scope.as_deref() {
        Some(text) => Some(compiled(text)?),
        None => None,
    };
    Some(Allowance { subscription: right.subscription, scope })
}

/// Why a consumer has no right to a producer any more, as far as the store says so.
pub(super) async fn state(relay: &Relay, consumer: ConsumerId, producer: ProducerId) -> Status {
    let state = relay.0.store.status(consumer, producer, relay.0.clock.now()).await;
    state.ok().flatten().unwrap_or(Status::Inactive)
}
