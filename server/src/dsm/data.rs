//! `POST /data`: one record, an array of them, or a stream of lines, into the log.

mod lines;
mod upload;

use axum::{
    Extension,
    body::Bytes,
    extract::{FromRequest as _, Request, State},
    http::{HeaderMap, StatusCode, header},
};
use motience_shared::{
    http::{ApiError, Json, Producer, body_error, is_json, malformed_json, unsupported_media_type},
    log::Transport,
    model::record::{self, Defaults},
    relay::Refusal,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use self::upload::Uploaded;
use super::readings::Readings;
use crate::http::{Shared, Unhurried, shapes};

/// What was taken.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"accepted": 1, "subscriberCount": 3}))]
pub(super) struct Accepted {
    /// Records now in the log.
    accepted: usize,
    /// Consumers subscribed to the producer.
    subscriber_count: u64,
}

/// A record as the contract shows it. The device id and the time may be left out: the account's and the time of arrival
/// then stand for them.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"device_id": "rpi_001", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3, "humidity": 51, "pressure": 1013.25}}))]
pub(super) struct Record {
    #[schema(value_type = Option<shapes::DeviceId>, inline, nullable = false)]
    device_id: Option<String>,
    #[schema(value_type = Option<shapes::Timestamp>, inline, nullable = false)]
    timestamp: Option<String>,
    data: serde_json::Value,
}

/// A record, whole or not.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "bodies are read where they lie; this only describes them")]
pub(super) enum Sent {
    Record(Record),
    #[schema(value_type = Readings)]
    Readings(serde_json::Value),
}

/// One record, or some.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "bodies are read where they lie; this only describes them")]
pub(super) enum Records {
    One(Sent),
    Some(Vec<Sent>),
}

/// What was taken: the first of one JSON body, the second of a stream.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Taken {
    Records(Accepted),
    Lines(Uploaded),
}

/// Takes records of the calling producer. The answer comes once they are in the log; of an array with a bad record
/// nothing is taken.
///
/// As `application/x-ndjson` the body is a record a line, of any length in all, and read no faster than the log takes it. A bad
/// line is left out and counted. A line may name its record, `{"type":"data","id":"n-1","payload":{…}}`: the same name again
/// changes nothing, so an upload that broke off can be sent again. An error on the way says in `accepted` and `last_line` how far it came.
#[utoipa::path(post, path = "/data", tag = "data", security(("bearer" = [])),
    request_body(content((Records = "application/json"), (serde_json::Value = "application/x-ndjson"))), responses(
    (status = 200, description = "In the log", body = Taken),
    (status = 400, description = "Malformed JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 401, description = "No or bad token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 403, description = "Not a producer", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 408, description = "A stream of lines fell silent", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body or a record is too large", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 415, description = "Not JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "Not a record", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 429, description = "The account has too many streams", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The log is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn data(
    State(services): State<Shared>,
    caller: Producer,
    unhurried: Option<Extension<Unhurried>>,
    request: Request,
) -> Result<Json<Taken>, ApiError> {
    if is_lines(request.headers()) {
        if let Some(Extension(unhurried)) = unhurried {
            unhurried.lift();
        }
        return upload::upload(&services, &caller, request.into_body()).await.map(Taken::Lines).map(Json);
    }
    let json = is_json(request.headers());
    let body = Bytes::from_request(request, &services).await.map_err(|e| body_error(e.status()))?;
    if !json {
        return Err(unsupported_media_type());
    }
    let backend = &services.backend;
    let now = backend.clock.now();
    let defaults = Defaults { device_id: caller.grant.default_device(), now };
    let limit = backend.relay.limits().record;
    let mut records = Vec::new();
    for (index, json) in split(&body, services.config.data_records)?.into_iter().enumerate() {
        let record = record::admit(&json, limit, &defaults).map_err(|invalid| {
            let error = ApiError::from(invalid);
            if body.trim_ascii_start().starts_with(b"[") { error.about(format!("Record {index}")) } else { error }
        })?;
        records.push(record);
    }
    let accepted = records.len();
    if accepted > 0 {
        let publisher = backend.relay.passing_publisher(caller.id).await?;
        let mut group = publisher.group();
        for record in &records {
            group.push_unnumbered(None, record.clone());
        }
        let ticket = group.submit().await.map_err(refusal)?;
        publisher.committed(ticket).await?;
        let mut devices = records.iter().filter_map(|record| record::device_of(record)).peekable();
        while let Some(device) = devices.next() {
            // Records of one device mostly come together.
            let mut count = 1;
            while devices.next_if_eq(&device).is_some() {
                count += 1;
            }
            backend.relay.devices().note(caller.id, &device, Transport::Http, count);
        }
    }
    let subscriber_count = backend.relay.subscriber_count(caller.id).await?;
    Ok(Json(Taken::Records(Accepted { accepted, subscriber_count })))
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

fn refusal(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Invalid(invalid) => invalid.into(),
        Refusal::Ended(e) => e.into(),
        Refusal::TooScattered => ApiError::internal(refusal),
    }
}
