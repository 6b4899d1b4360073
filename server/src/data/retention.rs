//! `GET /retention/:producer` and `PUT`: how much is kept of a producer's records, and which bound removes the oldest of them.

use std::time::Duration;

use axum::extract::State;
use motience_auth::Grant;
use motience_backend::retention::Kept;
use motience_http::{ApiError, Bearer, Json, Path};
use motience_log::Retention;
use motience_proto::model::{ProducerId, Role, User};
use motience_store::OwnRetention;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{Shared, shapes::whole_number};

/// Limits that a producer sets for its records. Members that are left out, or `null`, are as the platform has them; nothing is kept beyond those.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"log_age_seconds": 3600, "log_bytes": null, "history_age_seconds": 2592000}))]
pub(super) struct WantedRetention {
    /// Seconds for which records stay in the log.
    #[schema(minimum = 60, maximum = 3_153_600_000_u64)]
    #[serde(default, deserialize_with = "whole_number")]
    log_age_seconds: Option<u64>,
    /// Bytes of records that stay in the log.
    #[schema(minimum = 65536, maximum = 1_099_511_627_776_u64)]
    #[serde(default, deserialize_with = "whole_number")]
    log_bytes: Option<u64>,
    /// Seconds for which records stay in the history.
    #[schema(minimum = 60, maximum = 3_153_600_000_u64)]
    #[serde(default, deserialize_with = "whole_number")]
    history_age_seconds: Option<u64>,
}

/// How much is kept of a producer's records.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"producer_id": "1", "log_age_seconds": 3600, "log_bytes": 67_108_864, "history_age_seconds": 2_592_000,
    "own": {"log_age_seconds": 3600, "log_bytes": null, "history_age_seconds": 2_592_000}, "first_cut": {"bound": "age", "seconds": 120}}))]
pub(super) struct KeptRecords {
    producer_id: String,
    /// Seconds for which records stay in the log.
    log_age_seconds: u64,
    /// Bytes of records that stay in the log.
    log_bytes: u64,
    /// Seconds for which records stay in the history; `null`: for ever.
    #[schema(required)]
    history_age_seconds: Option<u64>,
    /// Limits that the producer itself has set.
    own: WantedRetention,
    /// The bound that removes the oldest record of the log first; `null`: the log has none.
    #[schema(required)]
    first_cut: Option<NearestBound>,
}

/// The bound of retention that is reached first.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"bound": "bytes", "seconds": 7200}))]
pub(super) struct NearestBound {
    #[schema(pattern = "^(age|bytes)$")]
    bound: &'static str,
    /// Seconds until then, if the log goes on to grow as in the last ten minutes.
    seconds: u64,
}

/// Least that a producer may want kept.
const LEAST_AGE: u64 = 60;
const LEAST_BYTES: u64 = 64 << 10;
/// A hundred years, and a tebibyte.
const MOST_AGE: u64 = 100 * 365 * 86_400;
const MOST_BYTES: u64 = 1 << 40;

/// How much is kept of a producer's records.
#[utoipa::path(get, path = "/retention/{producer_id}", tag = "history", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id")), responses(
    (status = 200, description = "What is kept", body = KeptRecords),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database or the log is unreachable"),
))]
pub(super) async fn retention(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<i64>,
) -> Result<Json<KeptRecords>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    kept(&services, &user).await
}

/// Sets how much is kept of a producer's records, within what the platform keeps; takes the place of all that was set before. Records that are
/// kept no longer go within minutes.
#[utoipa::path(put, path = "/retention/{producer_id}", tag = "history", security(("bearer" = [])), request_body = WantedRetention,
    params(("producer_id" = i64, Path, description = "A producer's id")), responses(
    (status = 200, description = "What is kept from now on", body = KeptRecords),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database or the log is unreachable"),
))]
pub(super) async fn set_retention(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<i64>,
    Json(wish): Json<WantedRetention>,
) -> Result<Json<KeptRecords>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    services.backend.set_retention(user.id.producer(), wish.own()?, grant.user).await?;
    kept(&services, &user).await
}

async fn producer(services: &Shared, grant: &Grant, id: i64) -> Result<User, ApiError> {
    if grant.role != Role::Admin && (grant.role != Role::Producer || grant.user.0 != id) {
        return Err(ApiError::forbidden("What is kept is said by the producer itself, or by an operator.").with_code("wrong_role"));
    }
    services.producer(ProducerId(id)).await
}

async fn kept(services: &Shared, user: &User) -> Result<Json<KeptRecords>, ApiError> {
    let Kept { own, log, history, first } = services.backend.kept(user.log_key()).await?;
    let Retention { age, bytes, .. } = log;
    Ok(Json(KeptRecords {
        producer_id: user.id.to_string(),
        log_age_seconds: age.as_secs(),
        log_bytes: bytes as u64,
        history_age_seconds: history.map(|age| age.as_secs()),
        own: WantedRetention {
            log_age_seconds: own.log_age.map(|age| age.as_secs()),
            log_bytes: own.log_bytes,
            history_age_seconds: own.history_age.map(|age| age.as_secs()),
        },
        first_cut: first.map(|(bound, left)| NearestBound { bound: bound.as_str(), seconds: left.as_secs().min(MOST_AGE) }),
    }))
}

impl WantedRetention {
    fn own(&self) -> Result<OwnRetention, ApiError> {
        let within = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(ApiError::invalid(name, format!("{name} must be from {least} to {most}.")))
            }
            value => Ok(value),
        };
        let age = |name, value| Ok::<_, ApiError>(within(name, value, LEAST_AGE, MOST_AGE)?.map(Duration::from_secs));
        Ok(OwnRetention {
            log_age: age("log_age_seconds", self.log_age_seconds)?,
            log_bytes: within("log_bytes", self.log_bytes, LEAST_BYTES, MOST_BYTES)?,
            history_age: age("history_age_seconds", self.history_age_seconds)?,
        })
    }
}
