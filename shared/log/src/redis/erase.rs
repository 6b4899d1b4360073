//! Records that are erased: the chunks that have any are written anew without them, and the stream is copied with these in their place.

use motience_proto::model::{LogKey, RangeSet};
use redis::Value;

use super::{Inner, functions::call, reply};
use crate::Error;

/// Entries of the stream that are read at once.
const PAGE: usize = 64;
/// Bytes that are staged, or copied, with one call.
const STEP: usize = 256 << 10;
/// Entries that are staged with one call.
const MOST: usize = 500;

/// Erases the records at these offsets; `false`: another node was faster, or the log was lost meanwhile.
pub(super) async fn erase_records(inner: &Inner, key: LogKey, offsets: &RangeSet) -> Result<bool, Error> {
    let (Some(first), Some(last)) = (offsets.iter().next().map(|range| *range.start()), offsets.max()) else { return Ok(true) };
    let names = |part| inner.names.key(key, part);
    let mut edition = redis::cmd("HGET");
    edition.arg(names("meta")).arg("edition");
    let edition: Option<String> = inner.ask(key, &edition).await?;
    let mut forget = redis::cmd("UNLINK");
    forget.arg(names("fresh")).arg(names("staged"));
    inner.ask::<Value>(key, &forget).await?;

    // A chunk is named by its last record, so the first one with such an id has the first offset, or a later one.
    let (mut from, mut staged) = (format!("{first}-0"), 0);
    let (mut batch, mut bytes) = (Vec::new(), 0);
    loop {
        let mut page = redis::cmd("XRANGE");
        page.arg(names("log")).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let value: Value = inner.ask(key, &page).await?;
        let Value::Array(entries) = value else { return Err(Error::Damaged("Redis answered with no valid log".to_owned())) };
        let mut is_end = entries.len() < PAGE;
        for entry in entries {
            let rewritten = reply::erased(entry, offsets)?;
            is_end |= rewritten.last.0 >= last;
            from = format!("({}", rewritten.id);
            if let Some(value) = rewritten.value {
                bytes += value.len();
                staged += 1;
                batch.push((rewritten.id, value));
            }
        }
        if bytes >= STEP || batch.len() >= MOST || (is_end && !batch.is_empty()) {
            let mut stage = call("stage");
            stage.arg(1).arg(names("staged"));
            batch.drain(..).for_each(|(id, value)| {
                stage.arg(id).arg(value);
            });
            inner.ask::<Value>(key, &stage).await?;
            bytes = 0;
        }
        if is_end {
            break;
        }
        tokio::task::consume_budget().await;
    }
    if staged == 0 {
        return Ok(true);
    }
    loop {
        let answered = inner.query(key, |session| {
            let mut rewrite = call("rewrite");
            rewrite.arg(4);
            for part in ["meta", "log", "fresh", "staged"] {
                rewrite.arg(names(part));
            }
            rewrite.arg(session.log_epoch.0).arg(edition.as_deref().unwrap_or("0")).arg(staged).arg(STEP);
            rewrite
        });
        let answered = answered.await?;
        match answered.value {
            Value::BulkString(answer) if answer.as_slice() == b"more" => {}
            Value::BulkString(answer) => {
                let is_done = answer.as_slice() == b"done";
                if is_done {
                    rewrite_files(inner).await;
                }
                return Ok(is_done);
            }
            _ => return Err(Error::Damaged("Redis answered with no valid outcome of an erasure".to_owned())),
        }
        tokio::task::consume_budget().await;
    }
}

/// Has the files to which Redis appends rewritten: until then they still have what was erased. In a cluster the log may have been on any of the servers. An
/// operator may have forbidden it.
pub(super) async fn rewrite_files(inner: &Inner) {
    for shard in inner.shards.all() {
        match shard.link.ask::<Value>(&redis::cmd("BGREWRITEAOF")).await {
            Ok(_) => tracing::info!("Redis rewrites its append-only file, which still has records that were erased"),
            Err(error) => {
                tracing::warn!(%error, "cannot ask Redis to rewrite its append-only file, which still has records that were erased");
            }
        }
    }
}
