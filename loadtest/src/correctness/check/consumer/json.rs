//! A consumer by one of the egresses that give out JSON: it goes on from its cursors after each break.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use motience_proto::model::{Cursor, LogEpoch, Offset};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{Book, Plan};
use crate::{
    common::egress::{Connection, Egress, Incoming, Start, Target},
    correctness::check::history::Event,
};

/// Longest silence of an egress that pings, or whose connection ends by itself when the node is silent.
const SILENCE: Duration = Duration::from_secs(8);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn read(egress: Egress, plan: &Plan, mut book: Book) -> Result<()> {
    let (server, ca, token, producers) = (plan.server.clone(), plan.ca.clone(), plan.token.clone(), plan.producers.clone());
    let target = Target { server, ca, token, producers, source: None };
    loop {
        match Connection::open(egress, &target, &start(plan, &book)).await {
            Ok(connection) => {
                book.note("connected".into());
                let end = follow(connection, &mut book).await?;
                book.note(end);
            }
            Err(e) => book.note(format!("not connected: {e:#}")),
        }
        sleep(PAUSE).await;
    }
}

/// From each cursor, and from the beginning where there is none.
fn start(plan: &Plan, book: &Book) -> Start {
    Start::After(plan.producers.iter().map(|producer| (*producer, book.cursors.get(*producer).unwrap_or_default())).collect())
}

/// Until the connection ends; how it did. An error is one of the protocol.
async fn follow(mut connection: Connection, book: &mut Book) -> Result<String> {
    loop {
        match timeout(SILENCE, connection.next()).await {
            Ok(said) => match said? {
                Incoming::Message(text) => {
                    if let Some(end) = take(&text, book)? {
                        return Ok(end);
                    }
                }
                Incoming::End(how) => return Ok(how),
            },
            Err(_) => return Ok("silent for too long".into()),
        }
    }
}

/// Fields of a message.
#[derive(Deserialize)]
struct Envelope {
    r#type: Option<String>,
    producer_id: Option<Value>,
    cursor: Option<String>,
    record_id: Option<String>,
    epoch: Option<Value>,
    after: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    code: Option<String>,
}

/// Writes it down. A reason to connect anew: only so is a producer asked for again whose follow has ended.
fn take(text: &str, book: &mut Book) -> Result<Option<String>> {
    let envelope: Envelope = serde_json::from_str(text).with_context(|| format!("an unknown message: {text}"))?;
    let producer = || number(envelope.producer_id.as_ref()).with_context(|| format!("whose is this? {text}"));
    match envelope.r#type.as_deref() {
        None => {
            let cursor = envelope.cursor.as_deref().with_context(|| format!("there is no cursor in {text}"))?.parse()?;
            let id = envelope.record_id.as_deref().with_context(|| format!("there is no record id in {text}"))?.parse()?;
            book.received(producer()?, cursor, id, text)?;
        }
        Some("gap") => {
            let (from, to) = envelope.from.zip(envelope.to).with_context(|| format!("a gap of what? {text}"))?;
            book.gap(producer()?, from, to)?;
        }
        Some("reset") => {
            let cursor = match (&envelope.cursor, number(envelope.epoch.as_ref()), envelope.after) {
                (Some(cursor), ..) => cursor.parse()?,
                (None, Some(epoch), Some(after)) => Cursor { log_epoch: LogEpoch(u64::try_from(epoch)?), offset: Offset(after) },
                _ => bail!("a reset to where? {text}"),
            };
            book.reset(producer()?, cursor)?;
        }
        Some("ended" | "refused") => {
            let why = envelope.code.clone().unwrap_or_default();
            book.history.put(Event::Ended { producer: producer()?, why: why.clone() });
            return Ok(Some(format!("a follow ended: {why}")));
        }
        // Where the egress stands without a record: the record's own cursor says it too.
        Some("cursors" | "cursor" | "subscribed") => {}
        Some(_) => book.note(text.to_owned()),
    }
    Ok(None)
}

/// A number that may be written as text.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        value => value.as_i64(),
    }
}
