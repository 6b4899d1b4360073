//! Records as a stream of lines: taken as they come, in groups of what has arrived, no faster than the log takes them.

use std::collections::VecDeque;

use axum::{body::BodyDataStream, extract::Request, http::StatusCode};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use motience_auth::{Client, Standing};
use motience_http::{ApiError, ClientAddress, Publish, Scoped, broken};
use motience_limits::{permits::Share, uploads};
use motience_proto::model::{
    Transport,
    envelope::{Envelope, MAX_ENVELOPE},
    record::Invalid,
};
use motience_relay::{self as relay, Ticket};
use motience_session::{ClientRecord, MessagePublisher};
use serde::Serialize;
use tokio::time::{Duration, timeout};
use utoipa::ToSchema;

use super::{
    Key,
    lines::{Line, Lines},
    outcome_unknown, unknown_type,
};
use crate::http::Shared;

/// Bytes of records submitted together, about.
const GROUP: usize = 256 * 1024;
/// Bad lines that the answer lists.
const MAX_ERRORS: usize = 20;
/// How long what was submitted is waited for when an upload ends before its time.
const FINISH_LIMIT: Duration = Duration::from_millis(800);

/// Outcome of a stream of lines.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"accepted": 2, "rejected": 1, "errors": [{"line": 2, "code": "invalid_json", "message": "not valid JSON: expected value at line 1 column 1"}], "subscriberCount": 3}))]
pub(in crate::data) struct Uploaded {
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
pub(in crate::data) struct BadLine {
    /// From 1.
    line: u64,
    /// Stable, for programs.
    code: &'static str,
    message: String,
}

/// Takes a body to its end, and answers once all of it is in the log.
pub(super) async fn upload(
    services: &Shared,
    caller: &Scoped<Publish>,
    client: ClientAddress,
    key: Key,
    request: Request,
) -> Result<Uploaded, ApiError> {
    let backend = &services.backend;
    let _permit = backend.permits.account(caller.grant.user, Share::Connections, Transport::Http)?;
    let mut room = request.extensions().get::<uploads::Upload>().map(uploads::Upload::part);
    if let Some(room) = &mut room {
        // At most a group of records, and a line whose end has not come.
        room.set(GROUP + backend.relay.limits().record + MAX_ENVELOPE)?;
    }
    let publisher = MessagePublisher::open(backend, caller.grant.log_key(), Transport::Http).await?;
    let limit = backend.relay.limits().record;
    let client = Client { transport: Transport::Http, address: Some(client.ip()), device: None };
    let standing = backend.standing(caller.grant.clone(), client);
    let mut upload = Upload {
        services,
        standing: &standing,
        caller,
        key,
        publisher,
        limit,
        lines: Lines::new(limit + MAX_ENVELOPE),
        body: request.into_body().into_data_stream(),
        waiting: VecDeque::new(),
        ticket: Ticket::default(),
        line: 0,
        named: true,
        signs: 0,
        first_bad: None,
        done: Done::default(),
    };
    let leave = services.shutdown.draining().enter();
    let outcome = tokio::select! {
        biased;
        () = standing.over() => Err(over(&standing)),
        () = leave.asked().cancelled() => Err(ApiError::unavailable("draining", "This node is going away. Go on with another.")),
        outcome = upload.run() => outcome,
    };
    upload.finish(outcome).await
}

/// Why an upload ends whose standing is over.
fn over(standing: &Standing) -> ApiError {
    if standing.is_ended() {
        return ApiError::unavailable("ended_by_operator", "An operator ended this upload. Send the lines after `last_line` again.");
    }
    ApiError::unauthenticated("token_ended", "The token has expired or was revoked.")
}

struct Upload<'s> {
    services: &'s Shared,
    standing: &'s Standing,
    caller: &'s Scoped<Publish>,
    key: Key,
    publisher: MessagePublisher,
    limit: usize,
    lines: Lines,
    body: BodyDataStream,
    /// Submitted and not yet in the log, in order. As many as the log's writer lets wait.
    waiting: VecDeque<Waiting>,
    /// The last submission.
    ticket: Ticket,
    /// The last line that was looked at.
    line: u64,
    /// Whether every record so far has a name.
    named: bool,
    /// Lines that are no records, but no mistakes either.
    signs: u64,
    /// Mistake of the first bad line.
    first_bad: Option<ApiError>,
    done: Done,
}

/// Lines that are dealt with once the log has come to a ticket.
struct Waiting {
    ticket: Ticket,
    records: u64,
    line: u64,
}

/// The lines that are dealt with.
#[derive(Default)]
struct Done {
    accepted: u64,
    rejected: u64,
    /// Everything up to this line is in the log or rejected.
    line: u64,
    errors: Vec<BadLine>,
}

impl Upload<'_> {
    async fn run(&mut self) -> Result<(), ApiError> {
        while let Some(piece) = self.piece().await? {
            let mut records = Vec::new();
            self.cut(piece, &mut records);
            let mut over = None;
            // Records that have come behind it go with it.
            while over.is_none() && bytes(&records) < GROUP {
                match self.body.next().now_or_never() {
                    Some(Some(Ok(piece))) => self.cut(piece, &mut records),
                    Some(Some(Err(e))) => over = Some(broken(&e)),
                    Some(None) | None => break,
                }
            }
            self.submit(records).await?;
            if let Some(error) = over {
                return Err(error);
            }
        }
        let lines = std::mem::replace(&mut self.lines, Lines::new(0));
        let mut records = Vec::new();
        if let Some(last) = lines.finish() {
            self.admit(last, &mut records);
        }
        self.submit(records).await?;
        self.publisher.committed(self.ticket).await.map_err(|error| outcome_unknown(error, self.named))?;
        self.settle();
        // Where nothing was taken, the first bad line says what became of the whole.
        match self.first_bad.take() {
            Some(first) if self.done.accepted + self.signs == 0 => Err(first),
            _ => Ok(()),
        }
    }

    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        match timeout(self.services.config.stream.silence, self.body.next()).await {
            Ok(piece) => piece.transpose().map_err(|e| broken(&e)),
            Err(_) => {
                let sentence = "Nothing came for too long. Send the lines after `last_line` again.";
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_silent", sentence))
            }
        }
    }

    fn cut(&mut self, piece: Bytes, records: &mut Vec<ClientRecord>) {
        self.lines.push(piece);
        while let Some(line) = self.lines.next() {
            self.admit(line, records);
        }
    }

    fn admit(&mut self, line: Line, records: &mut Vec<ClientRecord>) {
        self.line = line.number;
        let too_large = || Invalid::TooLarge { size: self.limit + MAX_ENVELOPE + 1, limit: self.limit };
        let meaning = line.text.ok_or_else(too_large).and_then(|text| self.publisher.read(text, &self.caller.grant, self.publisher.now()));
        let error = match meaning {
            Ok(Envelope::Record(record, id)) => {
                let id = id.or_else(|| self.key.name(line.number));
                self.named &= id.is_some();
                return records.push((record, id));
            }
            Ok(Envelope::Ping(_)) => {
                self.signs += 1;
                return;
            }
            Ok(Envelope::Unknown(name)) => unknown_type(&name),
            Err(invalid) => invalid.into(),
        };
        self.done.rejected += 1;
        if self.done.errors.len() < MAX_ERRORS {
            self.done.errors.push(BadLine { line: line.number, code: error.code(), message: error.sentence().to_owned() });
        }
        self.first_bad.get_or_insert_with(|| error.about(format!("Line {}", line.number)));
    }

    async fn submit(&mut self, records: Vec<ClientRecord>) -> Result<(), ApiError> {
        let count = records.len() as u64;
        if count > 0 {
            self.ticket = self.publisher.submit(records).await.map_err(|error| match error {
                error if !self.waiting.is_empty() && !matches!(error, relay::Error::Exceeded(_)) => outcome_unknown(error, self.named),
                error => error.into(),
            })?;
        }
        self.waiting.push_back(Waiting { ticket: self.ticket, records: count, line: self.line });
        self.settle();
        Ok(())
    }

    /// Counts what has come into the log.
    fn settle(&mut self) {
        let up_to = self.publisher.progress().borrow().up_to;
        while let Some(first) = self.waiting.pop_front_if(|waiting| waiting.ticket <= up_to) {
            self.standing.count(first.records);
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
        outcome.map_err(|error| {
            let told = serde_json::to_value(&errors).unwrap_or_default();
            error.with("accepted", accepted).with("rejected", rejected).with("last_line", line).with("errors", told)
        })?;
        let subscriber_count = self.publisher.subscriber_count().await;
        Ok(Uploaded { accepted, rejected, errors, subscriber_count })
    }
}

fn bytes(records: &[ClientRecord]) -> usize {
    records.iter().map(|(record, _)| record.json.len()).sum()
}
