//! News of a producer's subscribers, for a connection of the producer that has asked for them.

use motience_auth::{Denied, Grant};
use motience_backend::Backend;
use motience_proto::{model::Subscription, wire};
use motience_relay::SubscriberWatch;
use serde_json::json;

/// The one kind of events that a producer may ask for.
const SUBSCRIPTIONS: &str = "subscriptions";

/// Why a producer does not hear what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEvents {
    /// There are no such events.
    #[error("events is `{SUBSCRIPTIONS}`, or left out")]
    Unknown,
    /// Its token may not read lists.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// The events that a producer's connection asks for by this word; `None`: none.
pub fn wanted_events(backend: &Backend, grant: &Grant, events: Option<&str>) -> Result<Option<SubscriberWatch>, NoEvents> {
    match events {
        None => Ok(None),
        Some(SUBSCRIPTIONS) => Ok(Some(subscriber_watch(backend, grant)?)),
        Some(_) => Err(NoEvents::Unknown),
    }
}

/// News of a producer's subscribers, for a token that may read lists of its account.
pub(super) fn subscriber_watch(backend: &Backend, grant: &Grant) -> Result<SubscriberWatch, Denied> {
    let producer = grant.user.producer();
    grant.may_look_at(producer)?;
    Ok(backend.relay.subscriber_watch(producer))
}

/// The next change; never where nobody asked. Cancel-safe.
pub async fn heard(watch: &mut Option<SubscriberWatch>) -> Subscription {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// The message that tells of it.
pub fn subscription_message(subscription: &Subscription) -> serde_json::Value {
    let Subscription { id, producer_id, consumer_id, status, .. } = subscription;
    json!({
        "type": "subscription", "subscription_id": id, "producer_id": producer_id.to_string(), "consumer_id": consumer_id.to_string(),
        "status": status,
    })
}

/// The frame that tells of it.
pub(super) fn subscription_frame(subscription: &Subscription) -> wire::Frame {
    wire::Frame::Subscriber(wire::Subscriber {
        subscription: subscription.id.unsigned_abs(),
        consumer: subscription.consumer_id,
        status: subscription.status,
    })
}
