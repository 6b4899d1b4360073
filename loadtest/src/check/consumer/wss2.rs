//! A consumer over WebSocket `motience.v2`: a small client of its own, which removes nothing and repairs nothing.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use motience_shared::model::{Cursor, LogEpoch, Offset};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use super::{Book, Plan};
use crate::check::history::Event;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest silence: the gateway pings more often.
const SILENCE: Duration = Duration::from_secs(8);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn read(plan: &Plan, mut book: Book) -> Result<()> {
    loop {
        match connect(plan, &book).await {
            Ok(socket) => {
                book.note("connected".into());
                let end = follow(socket, &mut book).await?;
                book.note(end);
            }
            Err(e) => book.note(format!("not connected: {e:#}")),
        }
        sleep(PAUSE).await;
    }
}

/// From each cursor, and from the beginning where there is none.
async fn connect(plan: &Plan, book: &Book) -> Result<Socket> {
    let cursors: BTreeMap<String, String> =
        plan.producers.iter().map(|p| (p.to_string(), book.cursors.get(*p).unwrap_or_default().to_string())).collect();
    let resume = escaped(&serde_json::to_string(&cursors)?);
    let url = format!("{}?token={}&v=2&resume={resume}", plan.server, plan.token);
    Ok(timeout(CONNECT_LIMIT, connect_async(url)).await.context("no answer in time")??.0)
}

/// Percent-encoded: the characters of JSON that a query cannot hold.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Until the connection ends; how it did. An error is one of the protocol.
async fn follow(mut socket: Socket, book: &mut Book) -> Result<String> {
    loop {
        match timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => take(&text, book)?,
            Ok(Some(Ok(Message::Close(frame)))) => return Ok(format!("closed: {frame:?}")),
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(e))) => return Ok(format!("broken: {e}")),
            Ok(None) => return Ok("ended".into()),
            Err(_) => return Ok("silent for too long".into()),
        }
    }
}

/// What may be in a message.
#[derive(Deserialize)]
struct Envelope {
    r#type: Option<String>,
    producer_id: Option<Value>,
    cursor: Option<String>,
    name: Option<String>,
    epoch: Option<Value>,
    after: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    reason: Option<String>,
}

fn take(text: &str, book: &mut Book) -> Result<()> {
    let envelope: Envelope = serde_json::from_str(text).with_context(|| format!("an unknown message: {text}"))?;
    let producer = || number(envelope.producer_id.as_ref()).with_context(|| format!("whose is this? {text}"));
    match envelope.r#type.as_deref() {
        None | Some("data" | "record") => {
            let cursor = envelope.cursor.as_deref().with_context(|| format!("there is no cursor in {text}"))?.parse()?;
            let name = envelope.name.as_deref().with_context(|| format!("there is no name in {text}"))?.parse()?;
            book.received(producer()?, cursor, name, text)
        }
        Some("gap") => {
            let (from, to) = envelope.from.zip(envelope.to).with_context(|| format!("a gap of what? {text}"))?;
            book.gap(producer()?, from, to)
        }
        Some("reset") => {
            let cursor = match (&envelope.cursor, number(envelope.epoch.as_ref()), envelope.after) {
                (Some(cursor), ..) => cursor.parse()?,
                (None, Some(epoch), Some(after)) => Cursor { epoch: LogEpoch(u64::try_from(epoch)?), offset: Offset(after) },
                _ => bail!("a reset to where? {text}"),
            };
            book.reset(producer()?, cursor)
        }
        Some("ended" | "unsubscribed" | "left") => {
            book.history.put(Event::Ended { producer: producer()?, why: envelope.reason.clone().unwrap_or_default() });
            Ok(())
        }
        Some(_) => {
            book.note(text.to_owned());
            Ok(())
        }
    }
}

/// A number that may be written as text.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.parse().ok(),
        value => value.as_i64(),
    }
}
