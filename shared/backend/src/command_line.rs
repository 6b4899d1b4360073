//! Acts of the operator's command line, as an embedded node finds them in its database: another process has changed somebody's rights, and has
//! no cluster bus to say so. Nodes of a cluster are told over the bus.

use std::{sync::Arc, time::Duration};

use motience_cluster::Event;
use motience_proto::model::{ConsumerId, ProducerId};
use motience_relay::SubscriptionCache;
use motience_store::{Act, Outcome, Store};
use tokio::sync::Notify;
use tracing::warn;

/// How often the node looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Acts on what the command line does, for as long as it is polled. `refresh`: has accounts, devices and keys read again.
pub(super) async fn follow(store: Store, subscription_cache: Arc<SubscriptionCache>, refresh: Arc<Notify>) {
    let mut last = None;
    loop {
        match acts(&store, last).await {
            Ok((acts, newest)) => {
                last = Some(newest);
                for act in acts.iter().filter(|act| act.actor.is_none() && act.outcome == Outcome::Done) {
                    match event(act) {
                        Some(event) => subscription_cache.apply(&event),
                        None => refresh.notify_one(),
                    }
                }
            }
            Err(e) => warn!(error = %e, "acts of the command line cannot be read; trying again"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Acts after the last one that was seen, and the newest of them; none where nothing was seen before.
async fn acts(store: &Store, last: Option<i64>) -> Result<(Vec<Act>, i64), motience_store::Error> {
    let Some(last) = last else { return Ok((Vec::new(), store.newest_act().await?)) };
    let acts = store.acts_after(last).await?;
    let newest = acts.last().map_or(last, |act| act.id);
    Ok((acts, newest))
}

/// The event that an act would have been told by, where it changed a subscription.
fn event(act: &Act) -> Option<Event> {
    act.object.strip_prefix("subscription:")?;
    let (consumer, producer) = (ConsumerId(act.detail["consumer_id"].as_i64()?), ProducerId(act.detail["producer_id"].as_i64()?));
    Some(Event::Subscribed { consumer, producer })
}
