//! Bounds of what the producers of an organisation keep together. Where that is more than its plan allows, the largest of them give up their oldest
//! records, down to one size: a small producer loses nothing by a large neighbour.
//!
//! Each node looks how large the logs are, and tells the log which size none of them may pass; rows of the history are counted where those beyond
//! other bounds are removed (`history_bounds.rs`).

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use motience_limits::quota::Quotas;
use motience_log::{self as log, Log, Outline, most_for_each};
use motience_proto::model::{LogKey, ProducerId, Role, User, UserId};
use motience_relay as relay;
use motience_runtime::causes;
use motience_store::{self as store, Store};
use parking_lot::RwLock;
use tokio::time::timeout;
use tracing::warn;

use crate::Backend;

/// Logs looked at or trimmed at once.
const AT_ONCE: usize = 16;
/// Longest look at the logs of one organisation.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Bytes that a log of an organisation keeps, by producer. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Together(Arc<RwLock<HashMap<ProducerId, u64>>>);

impl Together {
    /// Bytes that a producer's log keeps; `None`: no plan of an organisation bounds them.
    pub(crate) fn log_bytes(&self, producer: ProducerId) -> Option<u64> {
        self.0.read().get(&producer).copied()
    }

    /// Looks how large the logs are of organisations whose plans bound that, and finds each one's size. Gives the logs and what they keep. An
    /// organisation whose logs cannot be looked at has what it had.
    pub(crate) async fn look(&self, store: &Store, log: &Log, quotas: &Quotas) -> Result<Vec<(LogKey, u64)>, store::Error> {
        let (mut parts, mut all) = (HashMap::new(), Vec::new());
        for (plan, accounts) in quotas.organisations() {
            let Some(most) = plan.total_log_bytes else { continue };
            let keys = producers(store, &accounts).await?;
            let outlines = match outlines(log, keys.iter().copied()).await {
                Ok(outlines) => outlines,
                Err(e) => {
                    warn!(error = causes(&e), "what an organisation keeps cannot be looked at; trying again");
                    parts.extend(keys.iter().filter_map(|key| Some((key.producer, self.log_bytes(key.producer)?))));
                    continue;
                }
            };
            let part = part(outlines.iter().map(|(_, outline)| outline.bytes()).collect(), most);
            for (key, outline) in outlines {
                parts.insert(key.producer, outline.bound_within(part));
                all.push((key, outline.bytes()));
            }
        }
        *self.0.write() = parts;
        Ok(all)
    }
}

/// Trims those of these logs that are larger than they may be by now, also where nobody writes to them.
pub(crate) async fn trim(log: &Log, logs: Vec<(LogKey, u64)>) {
    let large = logs.into_iter().filter(|(key, bytes)| *bytes > log.retentions().of(key.producer).bytes as u64);
    stream::iter(large)
        .for_each_concurrent(AT_ONCE, |(key, _)| async move {
            if let Err(e) = log.trim(key).await {
                warn!(error = causes(&e), producer = %key.producer, "a log cannot be trimmed; trying again");
            }
        })
        .await;
}

/// The logs of the producers among these accounts.
pub(crate) async fn producers(store: &Store, accounts: &[UserId]) -> Result<Vec<LogKey>, store::Error> {
    let users = store.users_by_id(accounts).await?;
    Ok(users.values().filter(|user| user.role == Role::Producer).map(User::log_key).collect())
}

/// The size that none may pass, so that all together are no larger than `most`. While they are not, the largest may grow by what is left.
pub(crate) fn part(sizes: Vec<u64>, most: u64) -> u64 {
    let sum: u64 = sizes.iter().sum();
    match most.checked_sub(sum) {
        Some(left) => sizes.into_iter().max().unwrap_or(0) + left,
        None => most_for_each(sizes, sum - most),
    }
}

async fn outlines(log: &Log, keys: impl Iterator<Item = LogKey>) -> Result<Vec<(LogKey, Outline)>, log::Error> {
    let looks = keys.map(|key| async move { Ok((key, log.outline(key).await?)) });
    let outlines = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect();
    timeout(LOOK_LIMIT, outlines).await.unwrap_or_else(|_| Err(log::Error::Unavailable("it did not answer in time".to_owned())))
}

impl Backend {
    /// Bytes that the logs of these accounts keep together.
    pub async fn log_bytes_of(&self, accounts: &[UserId]) -> Result<u64, relay::Error> {
        let keys = producers(&self.store, accounts).await.map_err(Arc::new)?;
        let outlines = outlines(self.relay.log(), keys.into_iter()).await?;
        Ok(outlines.iter().map(|(_, outline)| outline.bytes()).sum())
    }

    /// Rows that these accounts have in the history together.
    pub async fn history_rows_of(&self, accounts: &[UserId]) -> Result<u64, store::Error> {
        let mut rows = 0;
        for key in producers(&self.store, accounts).await? {
            rows += self.store.history_size(key.producer).await?.0;
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_are_no_larger_than_they_may_be() {
        assert_eq!(part(vec![], 100), 100);
        assert_eq!(part(vec![10, 20], 100), 90, "the larger one may grow by seventy");
        assert_eq!(part(vec![60, 20, 20], 100), 60);
        assert_eq!(part(vec![900, 20, 30], 100), 50);
        assert_eq!(part(vec![900, 800, 30], 100), 35);
    }
}
