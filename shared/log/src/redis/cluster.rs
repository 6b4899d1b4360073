//! A Redis Cluster as its nodes describe it.
//!
//! A node that is cut off from the others goes on telling how things were. So all are asked at once, and the one is believed that takes the
//! cluster to be whole, or to be at the latest epoch.

use std::{collections::BTreeSet, time::Duration};

use redis::{AsyncConnectionConfig, ErrorKind, RedisError, Value, from_redis_value};
use tokio::{task::JoinSet, time::timeout};

use super::{place::Place, sentinel::At, slots::Slots};

/// Longest wait for a node.
const NODE_LIMIT: Duration = Duration::from_secs(1);

/// How one node sees the cluster.
#[derive(Debug)]
pub(super) struct Told {
    /// Whether it takes the cluster to be whole, and the cluster's epoch as it knows it.
    rank: (bool, u64),
    pub(super) slots: Slots,
    /// Every node that it knows to have slots or to be a replica of one that has.
    pub(super) nodes: BTreeSet<At>,
}

/// Asks all of these nodes, and waits for each of them for a moment.
pub(super) async fn ask(places: &[Place]) -> Result<Told, RedisError> {
    let mut asked = JoinSet::new();
    for place in places {
        let place = place.clone();
        asked.spawn(async move { timeout(NODE_LIMIT, ask_one(&place)).await });
    }
    let (mut best, mut failure) = (None::<Told>, None);
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(Ok(told))) if best.as_ref().is_none_or(|best| best.rank < told.rank) => best = Some(told),
            Ok(Ok(Err(e))) => failure = Some(e),
            _ => {}
        }
    }
    best.ok_or_else(|| failure.unwrap_or_else(|| (ErrorKind::Io, "no node of the cluster answers in time").into()))
}

async fn ask_one(place: &Place) -> Result<Told, RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(NODE_LIMIT)).set_response_timeout(Some(NODE_LIMIT));
    let (mut connection, _) = place.open(&config).await?;
    let mut pipeline = redis::pipe();
    pipeline.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("SLOTS");
    let (info, slots): (String, Value) = pipeline.query_async(&mut connection).await?;
    read(&info, slots, &place.host())
}

/// Reads the answers of the node at `host`, which may leave out its own name.
fn read(info: &str, slots: Value, host: &str) -> Result<Told, RedisError> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let rank = (field("cluster_state:") == "ok", field("cluster_current_epoch:").parse().unwrap_or(0));
    let (mut ranges, mut nodes) = (Vec::new(), BTreeSet::new());
    for range in from_redis_value::<Vec<Vec<Value>>>(slots)? {
        let mut parts = range.into_iter();
        let (Some(first), Some(last)) = (parts.next(), parts.next()) else { continue };
        let (first, last): (u16, u16) = (from_redis_value(first)?, from_redis_value(last)?);
        // The master, and then its replicas.
        for (i, node) in parts.enumerate() {
            let mut node = from_redis_value::<Vec<Value>>(node)?.into_iter();
            let (Some(name), Some(port)) = (node.next(), node.next()) else { continue };
            let name = from_redis_value::<Option<String>>(name)?.filter(|name| !matches!(&name[..], "" | "?"));
            let at = (name.unwrap_or_else(|| host.to_owned()), from_redis_value(port)?);
            nodes.insert(at.clone());
            if i == 0 {
                ranges.push((first, last, at));
            }
        }
    }
    Ok(Told { rank, slots: Slots::of(ranges), nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_a_node_are_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |name, port| Value::Array(vec![name, Value::Int(port), text("id"), Value::Array(Vec::new())]);
        let slots = Value::Array(vec![
            Value::Array(vec![Value::Int(0), Value::Int(100), node(Value::Nil, 1), node(text("b"), 2)]),
            Value::Array(vec![Value::Int(101), Value::Int(16_383), node(text("b"), 3)]),
        ]);
        let told = read("cluster_state:ok\r\ncluster_current_epoch:7\r\n", slots, "a").unwrap();
        assert_eq!(told.rank, (true, 7));
        assert_eq!(told.slots.master(100), Some(&("a".to_owned(), 1)));
        assert_eq!(told.slots.master(101), Some(&("b".to_owned(), 3)));
        assert_eq!(told.nodes.len(), 3);
    }
}
