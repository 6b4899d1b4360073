//! `POST /data`: one record, an array of them, or a stream of lines, into the log.

mod lines;
mod sent;
mod upload;

use axum::{
    Extension,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
};
use motience_http::{ApiError, Client, Json, Publish, Scoped, collect, is_json, malformed_json, unsupported_media_type};
use motience_proto::model::{
    Transport,
    envelope::Envelope,
    record::{self, Admitted, MAX_ID},
};
use motience_relay::{self as relay, Publisher, Ticket};
use motience_session as session;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use self::{
    sent::{Records, Sent},
    upload::Uploaded,
};
use crate::http::{Shared, TimeoutExemption};

/// Outcome of an upload.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"accepted": 1, "subscriberCount": 3}))]
pub(super) struct Accepted {
    /// Records now in the log.
    accepted: usize,
    /// Consumers subscribed to the producer.
    subscriber_count: u64,
}

/// Outcome of an upload: the first of one JSON body, the second of a stream.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Taken {
    Records(Accepted),
    Lines(Uploaded),
}

/// Takes records of the calling producer. The answer comes once they are in the log; of an array with a bad record
/// nothing is taken.
///
/// A record, bare readings and an envelope mean here what they mean to wss1. As `application/x-ndjson` the body is a record a line, of any
/// length in all, and read no faster than the log takes it. A bad line is left out and counted; where every line is bad, the answer is
/// that of the first. An error on the way says in `accepted` and `last_line` how far it came.
///
/// A record may have a name of the sender's own, `{"type":"data","id":"n-1","payload":{…}}`, or get one from the header `Idempotency-Key`
/// (its value, `/`, and the record's place in the body): the same name again changes nothing. So whatever was answered by an error, or not
/// answered at all, can be sent again as it was. Where it is not known whether records were stored, a 503 says `"outcome":"unknown"`.
#[utoipa::path(post, path = "/data", tag = "data", security(("bearer" = [])),
    params(("idempotency-key" = inline(Option<sent::Key>), Header, description = "Names the records that have no id, so that the same request again stores nothing twice")),
    request_body(content((Records = "application/json"), (Sent = "application/x-ndjson"))), responses(
    (status = 200, description = "In the log", body = Taken),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a producer, or not of this device"),
    (status = 408, description = "A stream of lines fell silent"),
    (status = 413, description = "The body or a record is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "Not a record"),
    (status = 429, description = "The account has too many streams, or sends too much at once"),
    (status = 503, description = "The log is unavailable; `outcome` is `unknown` where records may be in it all the same"),
))]
pub(super) async fn data(
    State(services): State<Shared>,
    caller: Scoped<Publish>,
    exemption: Option<Extension<TimeoutExemption>>,
    Client(client): Client,
    request: Request,
) -> Result<Json<Taken>, ApiError> {
    services.backend.may_publish(&caller.grant)?;
    let key = Key::of(request.headers())?;
    if is_lines(request.headers()) {
        if let Some(Extension(exemption)) = exemption {
            exemption.claim();
        }
        return upload::upload(&services, &caller, client, key, request).await.map(Taken::Lines).map(Json);
    }
    let json = is_json(request.headers());
    // Memory of the body is held until its records are in the log.
    let collected = collect(request).await?;
    if !json {
        return Err(unsupported_media_type());
    }
    let backend = &services.backend;
    let body = record::without_mark(collected.bytes.clone());
    let several = body.trim_ascii_start().starts_with(b"[");
    let mut records = Vec::new();
    let now = backend.clock.now();
    for (index, json) in split(&body, services.config.data_records)?.into_iter().enumerate() {
        let about = |error: ApiError| if several { error.about(format!("Record {index}")) } else { error };
        match session::read(backend, json, &caller.grant, now).map_err(|invalid| about(invalid.into()))? {
            Envelope::Record(record, id) => records.push((record, id.or_else(|| key.name(index + 1)))),
            // Nobody waits for a pong here; the answer is one.
            Envelope::Ping(_) => {}
            Envelope::Unknown(name) => return Err(about(unknown_type(&name))),
        }
    }
    let accepted = records.len();
    if accepted > 0 {
        let publisher = backend.relay.ephemeral_publisher(caller.grant.log_key()).await?;
        let named = records.iter().all(|(_, id)| id.is_some());
        let mut group = publisher.group();
        for (record, id) in &records {
            group.push_unnumbered(id.as_deref(), record.json.clone());
        }
        let ticket = group.submit().await?;
        committed(&publisher, ticket, named).await?;
        note(&services, &caller, &publisher, &records);
    }
    let subscriber_count = backend.relay.subscriber_count(caller.grant.user.producer()).await?;
    Ok(Json(Taken::Records(Accepted { accepted, subscriber_count })))
}

/// Waits until the records are in the log. Where that fails they may come into it all the same, and the client must know.
async fn committed(publisher: &Publisher, ticket: Ticket, named: bool) -> Result<(), ApiError> {
    publisher.committed(ticket).await.map_err(|error| outcome_unknown(error, named))
}

/// The error of records that were handed to the log's writer. `named`: whether each of them has a name.
fn outcome_unknown(error: relay::Error, named: bool) -> ApiError {
    let how = if named {
        "Send the same again: what is in the log already is not stored twice."
    } else {
        "They may be stored: look into the history before you send them again. Records with an `id`, or a request with an \
         Idempotency-Key, can be sent again without a second thought."
    };
    ApiError::from(error).with("outcome", "unknown").with("retry", how)
}

/// Notices the devices of records that are in the log.
fn note(services: &Shared, caller: &Scoped<Publish>, publisher: &Publisher, records: &[(Admitted, Option<String>)]) {
    let (devices, key) = (&services.backend.reports.devices, caller.grant.log_key());
    let seen = records.iter().filter_map(|(record, _)| Some((record::device_of(&record.json)?, publisher.clock_fault(record.time))));
    let mut seen = seen.peekable();
    while let Some((device, fault)) = seen.next() {
        let mut count = 1;
        // Records of one device, with a clock that is right or wrong, mostly come together.
        while seen.next_if(|next| (&next.0, next.1) == (&device, fault)).is_some() {
            count += 1;
        }
        devices.note(key, &device, Transport::Http, count, fault);
    }
}

/// The value of `Idempotency-Key`, which names the records that bring no id.
struct Key(Option<String>);

impl Key {
    /// Room that the number of a line takes in a name.
    const NUMBER: usize = 21;

    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(Self(None)) };
        let key = value
            .to_str()
            .ok()
            .filter(|key| !key.is_empty() && key.len() + Self::NUMBER <= MAX_ID && key.bytes().all(|byte| byte.is_ascii_graphic()));
        let sentence = || format!("Idempotency-Key is 1 to {} visible characters.", MAX_ID - Self::NUMBER);
        key.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| ApiError::invalid("idempotency-key", sentence()))
    }

    /// The name of the record at `place`, from 1.
    fn name(&self, place: impl std::fmt::Display) -> Option<String> {
        self.0.as_ref().map(|key| format!("{key}/{place}"))
    }
}

fn unknown_type(name: &str) -> ApiError {
    ApiError::invalid("type", session::unknown_type(name)).with_code(session::UNKNOWN_TYPE)
}

fn is_lines(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    ["application/x-ndjson", "application/ndjson"].iter().any(|known| essence.eq_ignore_ascii_case(known))
}

/// The records of a body, each a slice of it.
fn split(body: &Bytes, most: usize) -> Result<Vec<Bytes>, ApiError> {
    if !body.trim_ascii_start().starts_with(b"[") {
        return Ok(vec![body.clone()]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|e| malformed_json(&e.to_string()))?;
    if items.len() > most {
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_records", format!("At most {most} records at once.")));
    }
    Ok(items.into_iter().map(|item| body.slice_ref(item.get().as_bytes())).collect())
}
