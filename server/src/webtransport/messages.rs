//! The messages on a session's streams: one line of JSON each.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use motience_auth::{Grant, Standing};
use motience_backend::Backend;
use motience_limits::uploads::Part;
use motience_proto::model::{ProducerId, Role, record::without_mark};
use motience_relay::pipeline::{Request, position::WrittenPosition};
use motience_session::{self as session, CloseReason};
use quinn::RecvStream;
use serde::Deserialize;
use serde_json::{Value, json};

/// Bytes taken from a stream in one read.
const READ: usize = 64 * 1024;

/// Message of a client on its control stream, of any type.
#[derive(Debug, Deserialize)]
pub(super) struct ClientMessage {
    pub(super) r#type: String,
    pub(super) token: Option<String>,
    producer_id: Option<Id>,
    /// Id of a ping, which its pong has too.
    pub(super) id: Option<Value>,
    pub(super) from: Option<WrittenPosition>,
    /// Cursors of a confirmation.
    pub(super) cursors: Option<HashMap<String, WrittenPosition>>,
    pub(super) lane: Option<String>,
    /// Events that a producer wants to hear of.
    pub(super) events: Option<String>,
    /// Whether records are to have `received_at`.
    #[serde(default)]
    pub(super) received_at: bool,
    #[serde(flatten)]
    pub(super) wishes: Request,
}

/// Ids may be numbers, or the same in text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl ClientMessage {
    pub(super) fn read(line: &[u8]) -> Result<Self, CloseReason> {
        serde_json::from_slice(line).map_err(|e| CloseReason::protocol(format!("this is no message: {e}")))
    }

    /// Producer that the message is about.
    pub(super) fn producer(&self) -> Result<ProducerId, CloseReason> {
        let id = match &self.producer_id {
            Some(Id::Number(id)) => Some(ProducerId(*id)),
            Some(Id::Text(id)) => id.parse().ok(),
            None => None,
        };
        id.ok_or_else(|| CloseReason::protocol(format!("{} needs a producer_id", self.r#type)))
    }
}

/// A stream of the client, line by line.
pub(super) struct Lines {
    stream: RecvStream,
    buffer: BytesMut,
    /// Bytes that were looked through for an end of line.
    seen: usize,
    /// Longest line.
    limit: usize,
    /// Memory reserved for the bytes kept.
    room: Option<Part>,
}

impl Lines {
    pub(super) fn new(stream: RecvStream, buffer: BytesMut, limit: usize) -> Self {
        Self { stream, buffer, seen: 0, limit, room: None }
    }

    /// Reserves memory for the bytes kept from now on.
    pub(super) fn within(self, room: Part) -> Self {
        Self { room: Some(room), ..self }
    }

    /// Reserves memory for the bytes not given out yet, and for `given` bytes that were.
    pub(super) fn holds(&mut self, given: usize) -> Result<(), CloseReason> {
        let bytes = self.buffer.len() + given;
        self.room.as_mut().map_or(Ok(()), |room| Ok(room.set(bytes)?))
    }

    /// Allows longer lines from now on.
    pub(super) fn allow(&mut self, limit: usize) {
        self.limit = self.limit.max(limit);
    }

    /// The next line; `None` at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CloseReason> {
        loop {
            if let Some(line) = self.ready()? {
                return Ok(Some(line));
            }
            match self.stream.read_chunk(READ, true).await.map_err(CloseReason::gone)? {
                Some(chunk) => {
                    self.buffer.extend_from_slice(&chunk.bytes);
                    self.holds(0)?;
                }
                // The last line needs no end.
                None if self.buffer.is_empty() => return Ok(None),
                None => self.buffer.extend_from_slice(b"\n"),
            }
        }
    }

    /// A line that was read already.
    pub(super) fn ready(&mut self) -> Result<Option<Bytes>, CloseReason> {
        loop {
            let Some(at) = self.buffer[self.seen..].iter().position(|&byte| byte == b'\n') else {
                self.seen = self.buffer.len();
                return if self.seen > self.limit { Err(too_large(self.limit)) } else { Ok(None) };
            };
            let line = self.buffer.split_to(self.seen + at + 1).freeze();
            self.seen = 0;
            let line = without_mark(line);
            let line = line.slice_ref(line.trim_ascii());
            if line.len() > self.limit {
                return Err(too_large(self.limit));
            }
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

fn too_large(limit: usize) -> CloseReason {
    CloseReason::TooLarge(format!("a line has more than {limit} bytes").into())
}

/// The first line to an authenticated client.
pub(super) fn welcome(backend: &Backend, standing: &Standing) -> String {
    let grant = standing.grant();
    let welcome = json!({
        "type": "welcome", "role": grant.role, "user_id": grant.user, "node": backend.node,
        "expires_in": standing.expires_in(), "max_record": backend.relay.limits().record,
    });
    welcome.to_string()
}

/// Account of this token, which must be a producer or a consumer.
pub(super) async fn authenticate(backend: &Backend, token: Option<&str>) -> Result<Grant, CloseReason> {
    let grant = session::authenticate(backend, session::given(token)?).await?;
    match grant.role {
        Role::Producer => backend.may_publish(&grant)?,
        Role::Consumer => grant.may_follow()?,
        other => return Err(CloseReason::forbidden(format!("there is nothing here for {other}s"))),
    }
    Ok(grant)
}
