//! Comparisons of the followed logs with their rings: a signal that was lost is noticed here.
//!
//! Published batches tell of a hole before them by themselves, and a broken connection has everything compared at once. So what is found
//! otherwise is the loss of the very last batch of a log, which is rare. A node therefore asks for at most [`CHECKS_A_SECOND`] bounds in a second,
//! however many logs it follows: the load of idle nodes on Redis does not grow with the number of producers.

use std::{
    collections::HashSet,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use motience_log::Log;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::{
    Relay,
    hub::{Channel, Hub},
};

/// How often logs are compared.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Logs that are compared each time. Up to here a lost signal is noticed after two comparisons of its log, which is two seconds.
const CHECKS_A_SECOND: usize = 1000;
/// Questions under way at once: a round takes less than the sum of its answers' times.
const AT_ONCE: usize = 64;

/// Starts the task that compares rings with the log, every second and whenever signals may have been lost.
pub(super) fn start(relay: &Relay) {
    if matches!(relay.0.log, Log::Embedded(_)) {
        // In one process nothing can be lost between log and hub.
        return;
    }
    let (hub, log, stop) = (Arc::clone(&relay.0.hub), relay.0.log.clone(), relay.0.stop.clone());
    relay.0.tasks.spawn(async move { stop.run_until_cancelled(run(&hub, &log)).await });
}

async fn run(hub: &Hub, log: &Log) {
    let mut round = Round::default();
    loop {
        tokio::select! {
            biased;
            () = hub.stale() => {
                round = Round::default();
                compare(log, hub.channels(), true).await;
            }
            () = tokio::time::sleep(CHECK_EVERY) => {
                hub.reads.sweep();
                round.ahead = compare(log, round.next(hub), false).await;
            }
        }
    }
}

/// One walk over all logs, a part of it each second.
#[derive(Default)]
struct Round {
    left: Vec<Weak<Channel>>,
    /// Logs that were ahead of their rings when they were compared last: whether a signal is late or lost shows now.
    ahead: Vec<Arc<Channel>>,
}

impl Round {
    /// The next logs to be compared.
    fn next(&mut self, hub: &Hub) -> Vec<Arc<Channel>> {
        if self.left.is_empty() {
            self.left = hub.channels().iter().map(Arc::downgrade).collect();
        }
        let rest = self.left.len().saturating_sub(CHECKS_A_SECOND);
        let part = self.left.split_off(rest);
        let mut next = std::mem::take(&mut self.ahead);
        let known: HashSet<_> = next.iter().map(|channel| channel.key).collect();
        next.extend(part.iter().filter_map(Weak::upgrade).filter(|channel| !known.contains(&channel.key)));
        next
    }
}

/// Compares these logs with their rings. `stale`: signals may have been lost, so that a log that is ahead has lost one. Returns those that are ahead.
async fn compare(log: &Log, channels: Vec<Arc<Channel>>, stale: bool) -> Vec<Arc<Channel>> {
    // Logs of a server that does not answer are not asked for one by one; those of others are.
    let away: Mutex<Vec<usize>> = Mutex::default();
    let one = |channel: Arc<Channel>| {
        let away = &away;
        async move {
            let server = log.server_of(channel.key);
            if away.lock().contains(&server) {
                return None;
            }
            let heard = channel.end();
            let bounds = match log.bounds(channel.key).await {
                Ok(bounds) => bounds,
                Err(e) => {
                    let mut away = away.lock();
                    if !away.contains(&server) {
                        warn!(error = %e, "the bounds of the log cannot be compared");
                        away.push(server);
                    }
                    return None;
                }
            };
            if bounds.log_epoch() == heard.log_epoch && bounds.last < heard.offset {
                metrics::counter!("motience_log_disagreements_total").increment(1);
                warn!(producer = %channel.key.producer, "more was published than the log has: its readers go back to the log");
            }
            let last = bounds.last;
            let news = if stale { channel.advance(bounds, heard) } else { channel.check(bounds, heard) };
            if news {
                debug!(producer = %channel.key.producer, "a hole is filled from the log");
            }
            (last > channel.end().offset).then_some(channel)
        }
    };
    stream::iter(channels).map(one).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}
