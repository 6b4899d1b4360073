//! Records as a stream of lines: taken as they come, in groups of what has arrived, no faster than the log takes them.

use std::collections::VecDeque;

use axum::{
    body::{Body, BodyDataStream},
    http::StatusCode,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use motience_shared::{
    http::{ApiError, Producer},
    log::Transport,
    model::{
        envelope::{self, Envelope, MAX_ENVELOPE, MAX_ID},
        record::{self, Defaults, Invalid},
    },
    relay::{Publisher, Senders, Ticket},
};
use serde::Serialize;
use tokio::time::{Duration, timeout};
use tracing::warn;
use utoipa::ToSchema;

use super::lines::{Line, Lines};
use crate::http::Shared;

/// Bytes of records submitted together, about.
const GROUP: usize = 256 * 1024;
/// Bad lines that are told of.
const MAX_ERRORS: usize = 20;
/// How long what was submitted is waited for when an upload ends before its time.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// What was taken of a stream of lines.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"accepted": 2, "rejected": 1, "errors": [{"line": 2, "code": "invalid_json", "message": "not valid JSON: expected value at line 1 column 1"}], "subscriberCount": 3}))]
pub(in crate::dsm) struct Uploaded {
    /// Records now in the log.
    accepted: u64,
    /// Lines that are no records, and were left out.
    rejected: u64,
    /// The first 20 of them.
    errors: Vec<BadLine>,
    /// Consumers subscribed to the producer.
    subscriber_count: u64,
}

/// A line that is no record.
#[derive(Serialize, ToSchema)]
pub(in crate::dsm) struct BadLine {
    /// From 1.
    line: u64,
    /// Stable, for programs.
    code: &'static str,
    message: String,
}

/// Takes a body to its end, and answers once all of it is in the log.
pub(super) async fn upload(services: &Shared, caller: &Producer, body: Body) -> Result<Uploaded, ApiError> {
    let backend = &services.backend;
    let _seat = services.seats.take(caller.grant.user)?;
    let publisher = backend.relay.passing_publisher(caller.id).await?;
    let limit = backend.relay.limits().record;
    let mut upload = Upload {
        services,
        caller,
        publisher,
        devices: backend.relay.devices().senders(caller.id, Transport::Http),
        limit,
        lines: Lines::new(limit + MAX_ENVELOPE),
        body: body.into_data_stream(),
        waiting: VecDeque::new(),
        ticket: Ticket::default(),
        line: 0,
        done: Done::default(),
    };
    let ended = backend.ended(&caller.grant);
    let outcome = tokio::select! {
        biased;
        () = ended => Err(ApiError::unauthenticated("token_ended", "The token has expired or was revoked.")),
        () = services.draining.cancelled() => Err(ApiError::unavailable("draining", "This node is going away. Go on with another.")),
        outcome = upload.run() => outcome,
    };
    upload.finish(outcome).await
}

struct Upload<'s> {
    services: &'s Shared,
    caller: &'s Producer,
    publisher: Publisher,
    devices: Senders,
    limit: usize,
    lines: Lines,
    body: BodyDataStream,
    /// Submitted and not yet in the log, in order. As many as the log's writer lets wait.
    waiting: VecDeque<Waiting>,
    /// The last submission.
    ticket: Ticket,
    /// The last line that was looked at.
    line: u64,
    done: Done,
}

/// Lines that are dealt with once the log has come to a ticket.
struct Waiting {
    ticket: Ticket,
    records: u64,
    line: u64,
}

/// What is dealt with.
#[derive(Default)]
struct Done {
    accepted: u64,
    rejected: u64,
    /// Everything up to this line is in the log or rejected.
    line: u64,
    errors: Vec<BadLine>,
}

/// A record, and the name its sender gives it.
type Named = (Bytes, Option<String>);

impl Upload<'_> {
    async fn run(&mut self) -> Result<(), ApiError> {
        while let Some(piece) = self.piece().await? {
            let mut records = Vec::new();
            self.cut(piece, &mut records);
            let mut over = false;
            // What has come behind it goes with it.
            while !over && bytes(&records) < GROUP {
                match self.body.next().now_or_never() {
                    Some(Some(Ok(piece))) => self.cut(piece, &mut records),
                    Some(Some(Err(_))) => over = true,
                    Some(None) | None => break,
                }
            }
            self.submit(records).await?;
            if over {
                return Err(broken());
            }
        }
        let lines = std::mem::replace(&mut self.lines, Lines::new(0));
        let mut records = Vec::new();
        if let Some(last) = lines.finish() {
            self.admit(last, &mut records);
        }
        self.submit(records).await?;
        self.publisher.committed(self.ticket).await?;
        Ok(())
    }

    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        match timeout(self.services.config.stream.silence, self.body.next()).await {
            Ok(piece) => piece.transpose().map_err(|_| broken()),
            Err(_) => {
                let sentence = "Nothing came for too long. Send the lines after `last_line` again.";
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_silent", sentence))
            }
        }
    }

    fn cut(&mut self, piece: Bytes, records: &mut Vec<Named>) {
        self.lines.push(piece);
        while let Some(line) = self.lines.next() {
            self.admit(line, records);
        }
    }

    fn admit(&mut self, line: Line, records: &mut Vec<Named>) {
        self.line = line.number;
        let now = self.services.backend.clock.now();
        let defaults = Defaults { device_id: self.caller.grant.default_device(), now };
        match read(line.text, self.limit, &defaults) {
            Ok(Some(record)) => records.push(record),
            Ok(None) => {}
            Err((code, message)) => {
                self.done.rejected += 1;
                if self.done.errors.len() < MAX_ERRORS {
                    self.done.errors.push(BadLine { line: line.number, code, message });
                }
            }
        }
    }

    async fn submit(&mut self, records: Vec<Named>) -> Result<(), ApiError> {
        let count = records.len() as u64;
        if count > 0 {
            let mut group = self.publisher.group();
            for (json, id) in records {
                if let Some(device) = record::device_of(&json) {
                    self.devices.seen(&device);
                }
                group.push_unnumbered(id.as_deref(), json);
            }
            self.ticket = group.submit().await.map_err(super::refusal)?;
        }
        self.waiting.push_back(Waiting { ticket: self.ticket, records: count, line: self.line });
        self.settle();
        Ok(())
    }

    /// Counts what has come into the log.
    fn settle(&mut self) {
        let up_to = self.publisher.progress().borrow().up_to;
        while let Some(first) = self.waiting.pop_front_if(|waiting| waiting.ticket <= up_to) {
            self.done.accepted += first.records;
            self.done.line = first.line;
        }
    }

    /// The answer, whatever the outcome: how far it came.
    async fn finish(mut self, outcome: Result<(), ApiError>) -> Result<Uploaded, ApiError> {
        if outcome.is_err() {
            // Whoever goes on after `last_line` sends nothing twice that is in the log by then.
            let _ = timeout(FINISH_LIMIT, self.publisher.committed(self.ticket)).await;
        }
        self.settle();
        let Done { accepted, rejected, line, errors } = self.done;
        metrics::counter!("motience_upload_records_total", "outcome" => "accepted").increment(accepted);
        metrics::counter!("motience_upload_records_total", "outcome" => "rejected").increment(rejected);
        outcome.map_err(|error| error.with("accepted", accepted).with("rejected", rejected).with("last_line", line))?;
        let subscriber_count = self.services.backend.relay.subscriber_count(self.caller.id).await.unwrap_or_else(|e| {
            // The records are in the log; the count is a courtesy.
            warn!(error = %e, "subscribers cannot be counted");
            0
        });
        Ok(Uploaded { accepted, rejected, errors, subscriber_count })
    }
}

/// A line's record; `None` for a sign of life, or why it is none.
fn read(text: Option<Bytes>, limit: usize, defaults: &Defaults<'_>) -> Result<Option<Named>, (&'static str, String)> {
    let invalid = |e: Invalid| (e.code(), e.to_string());
    let text = text.ok_or_else(|| ("too_large", format!("the line is longer than a record of {limit} bytes can make it")))?;
    match envelope::read(text).map_err(invalid)? {
        Envelope::Record(_, Some(id)) if id.is_empty() || id.len() > MAX_ID => {
            Err(("invalid_id", format!("an id is 1 to {MAX_ID} bytes of text")))
        }
        Envelope::Record(json, id) => record::admit(&json, limit, defaults).map(|record| Some((record, id))).map_err(invalid),
        Envelope::Ping => Ok(None),
        Envelope::Unknown(name) => Err(("unknown_type", format!("there is no message of type '{name}'"))),
    }
}

fn bytes(records: &[Named]) -> usize {
    records.iter().map(|(json, _)| json.len()).sum()
}

fn broken() -> ApiError {
    ApiError::malformed("The body broke off.")
}
