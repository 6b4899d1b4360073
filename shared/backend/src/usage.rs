//! Writes down what was given out to consumers, where usage is counted: every two seconds, and at the node's end. A node that is killed forgets what it
//! gave out since; nothing is ever counted twice.

use std::{sync::Arc, time::Duration};

use motience_proto::model::{ConsumerId, Cursor, ProducerId};
use motience_relay::{self as relay, Relay};
use motience_store::{GivenOut, Store};
use tracing::warn;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

/// Writes for as long as it is polled.
pub(super) async fn run(relay: Relay, store: Store) {
    if relay.usage().is_none() {
        return;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        write(&relay, &store).await;
    }
}

/// Writes what waits. Runs that cannot be written wait on.
pub(super) async fn write(relay: &Relay, store: &Store) {
    let Some(meter) = relay.usage() else { return };
    let mut failed = None;
    for ((consumer, producer), runs) in meter.take() {
        if failed.is_none()
            && let Err(e) = count(relay, store, (consumer, producer), &runs).await
        {
            failed = Some(e);
        } else if failed.is_none() {
            continue;
        }
        runs.into_iter().for_each(|run| meter.put(run));
    }
    if let Some(e) = failed {
        warn!(error = %e, "what was given out cannot be counted now; trying again");
    }
}

/// Counts runs of one consumer and producer; asks the log what its epochs share where it began another one.
async fn count(
    relay: &Relay,
    store: &Store,
    (consumer, producer): (ConsumerId, ProducerId),
    runs: &[GivenOut],
) -> Result<(), relay::Error> {
    if store.count_given_out(consumer, producer, runs, |_| None).await.map_err(Arc::new)? {
        return Ok(());
    }
    let bounds = relay.log().bounds(relay.log_of(producer).await?).await?;
    let shared = |log_epoch| Some(bounds.epochs.resume(Cursor { log_epoch, offset: bounds.last }, bounds.last).offset.0);
    store.count_given_out(consumer, producer, runs, shared).await.map_err(Arc::new)?;
    Ok(())
}
