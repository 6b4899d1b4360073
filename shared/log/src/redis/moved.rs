//! Logs of the first release, whose keys named neither an installation nor a log: `m:{P}:meta` and the like.
//!
//! The first installation that starts on such a Redis takes them over, once, by renaming them to the log that bears the number P: it is
//! the log of every account from before there were log ids. Nodes of the first release must be stopped by then; what one of them
//! still writes under the old names is left there, and said at the next start.

use motience_proto::model::{LogKey, ProducerId};
use redis::Value;
use tracing::{info, warn};

use super::{names::Names, shards::Shards};
use crate::Error;

/// Keys looked at in one step.
const STEP: usize = 1000;

/// Renames what is there. Any number of nodes may do it at once: when one has come to the end, nothing is left.
pub(super) async fn take_over(shards: &Shards, names: &Names) -> Result<(), Error> {
    let mark = names.shared("moved");
    if shards.ask::<bool>(&mark, redis::cmd("EXISTS").arg(&mark)).await? {
        return Ok(());
    }
    let (mut cursor, mut moved, mut left) = ("0".to_owned(), 0_u64, 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg("m:{*}:*").arg("COUNT").arg(STEP);
        let (next, keys): (String, Vec<String>) = shards.ask(&mark, &scan).await?;
        for (old, new) in keys.iter().filter_map(|old| Some((old, renamed(names, old)?))) {
            match shards.ask(old, redis::cmd("RENAMENX").arg(old).arg(&new)).await {
                Ok(Value::Int(1)) => moved += 1,
                Ok(_) => left += 1,
                // Another node was faster.
                Err(Error::Damaged(e)) if e.contains("no such key") => {}
                Err(e) => return Err(e),
            }
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    if moved > 0 {
        info!(keys = moved, "logs of the first release were taken over");
    }
    if left > 0 {
        warn!(keys = left, "a node of the first release has written under names that are taken by now; its records are left there");
        return Ok(());
    }
    // A Redis that cannot be written to just now is looked through again at the next start.
    let _ = shards.ask::<Value>(&mark, redis::cmd("SET").arg(&mark).arg(1)).await;
    Ok(())
}

fn renamed(names: &Names, old: &str) -> Option<String> {
    let (producer, part) = old.strip_prefix("m:{")?.split_once("}:")?;
    Some(names.key(LogKey::numbered(producer.parse::<ProducerId>().ok()?), part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_becomes_that_of_the_log_with_the_number() {
        let names = Names::new("a");
        assert_eq!(renamed(&names, "m:{7}:s:d:x}:y").as_deref(), Some("m:a:{7-7}:s:d:x}:y"));
        for other in ["m:a:{7-7}:log", "m:{x}:log", "m:bus"] {
            assert_eq!(renamed(&names, other), None);
        }
    }
}
