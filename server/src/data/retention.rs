//! `GET /retention/:producer` and `PUT`: how much is kept of a producer's records, and which bound removes the oldest of them.

use std::time::Duration;

use axum::extract::State;
use motience_auth::Grant;
use motience_backend::retention::{Bounds, Kept};
use motience_http::{ApiError, Decide, Json, Look, Path, Scoped};
use motience_proto::model::{ProducerId, Role, User};
use motience_store::{ClassRetention, OwnRetention};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{Shared, shapes::whole_number};

/// Limits that a producer sets for its records. Members that are left out, or `null`, are as the platform has them; nothing is kept beyond what the
/// operator allows and the producer's plan.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"log_age_seconds": 3600, "log_bytes": null, "history_age_seconds": 2592000,
    "classes": [{"label": "kind", "value": "camera", "history_age_seconds": 86400}]}))]
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
    /// Classes of devices whose records stay in the history for a shorter time. The log keeps them as long as others. Left out: as they were.
    #[schema(max_items = 16)]
    #[serde(default)]
    classes: Option<Vec<WantedClass>>,
}

/// Devices that have a label with this value.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"label": "kind", "value": "camera", "history_age_seconds": 86_400}))]
pub(super) struct WantedClass {
    #[schema(min_length = 1, max_length = 255)]
    label: String,
    #[schema(max_length = 255)]
    value: String,
    /// Seconds for which their records stay in the history.
    #[schema(minimum = 60, maximum = 3_153_600_000_u64)]
    #[serde(deserialize_with = "whole")]
    history_age_seconds: u64,
}

/// A whole number that has to be there.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    whole_number(deserializer)?.ok_or_else(|| serde::de::Error::custom("a whole number is needed"))
}

/// How much is kept of a producer's records.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"producer_id": "1", "log_age_seconds": 3600, "log_bytes": 67_108_864, "history_age_seconds": 2_592_000, "history_rows": null,
    "total_log_bytes": null, "total_history_rows": null, "own": {"log_age_seconds": 3600, "log_bytes": null, "history_age_seconds": 2_592_000, "classes": []}, "first_cut": {"bound": "age", "seconds": 120},
    "history_cut": {"bound": "age", "seconds": 86_400}}))]
pub(super) struct KeptRecords {
    producer_id: String,
    /// Seconds for which records stay in the log.
    log_age_seconds: u64,
    /// Bytes of records that stay in the log.
    log_bytes: u64,
    /// Seconds for which records stay in the history; `null`: for ever.
    #[schema(required)]
    history_age_seconds: Option<u64>,
    /// Rows that stay in the history, by the producer's plan; `null`: any number.
    #[schema(required)]
    history_rows: Option<u64>,
    /// Bytes that the logs of all producers of its organisation keep together, by the plan; `null`: any number. `log_bytes` has this producer's
    /// part of it by now.
    total_log_bytes: Option<u64>,
    /// Likewise rows of the history.
    total_history_rows: Option<u64>,
    /// Limits that the producer itself has set.
    own: WantedRetention,
    /// The bound that removes the oldest record of the log first; `null`: the log has none.
    #[schema(required)]
    first_cut: Option<NearestBound>,
    /// Likewise the oldest row of the history, if rows come as they did so far; `null`: there is none, or it stays for ever.
    #[schema(required)]
    history_cut: Option<NearestBound>,
}

/// The bound of retention that is reached first.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"bound": "bytes", "seconds": 7200}))]
pub(super) struct NearestBound {
    #[schema(pattern = "^(age|bytes|rows)$")]
    bound: &'static str,
    /// Seconds until then; for the log if it goes on to grow as in the last ten minutes.
    seconds: u64,
}

/// Most classes of one producer, and the longest label and value of one, in characters.
const MOST_CLASSES: usize = 16;
const LONGEST_LABEL: usize = 255;
/// Least bytes that a producer may want kept.
const LEAST_BYTES: u64 = 64 << 10;
/// A hundred years, and a tebibyte.
const MOST_AGE: u64 = 100 * 365 * 86_400;
const MOST_BYTES: u64 = 1 << 40;

/// How much is kept of a producer's records. Members of its organisation see that too, acting for it.
#[utoipa::path(get, path = "/retention/{producer_id}", tag = "history", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id")), responses(
    (status = 200, description = "What is kept", body = KeptRecords),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer, nor a member of its organisation, nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database or the log is unreachable"),
))]
pub(super) async fn retention(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Path(id): Path<i64>,
) -> Result<Json<KeptRecords>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    kept(&services, &user).await
}

/// Sets how much is kept of a producer's records, within what the platform keeps; takes the place of all that was set before.
/// Classes that are left out stay as they were. Records that are kept no longer go within minutes. Managers of its organisation may do it, acting for it.
#[utoipa::path(put, path = "/retention/{producer_id}", tag = "history", security(("bearer" = [])), request_body = WantedRetention,
    params(("producer_id" = i64, Path, description = "A producer's id")), responses(
    (status = 200, description = "What is kept from now on", body = KeptRecords),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer, nor a manager of its organisation, nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database or the log is unreachable"),
))]
pub(super) async fn set_retention(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Path(id): Path<i64>,
    Json(wish): Json<WantedRetention>,
) -> Result<Json<KeptRecords>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    let backend = &services.backend;
    let keeps_classes = wish.classes.is_none();
    let mut own = wish.own(backend.retention_choice().least)?;
    if keeps_classes {
        // Clients that know of no classes must not end them.
        own.classes = backend.store.retention(user.id.producer()).await?.classes;
    }
    backend.set_retention(user.id.producer(), own, grant.user).await?;
    kept(&services, &user).await
}

async fn producer(services: &Shared, grant: &Grant, id: i64) -> Result<User, ApiError> {
    grant.may_look_at(ProducerId(id))?;
    if grant.role != Role::Admin && (grant.role != Role::Producer || grant.user.0 != id) {
        return Err(ApiError::forbidden("What is kept is said by the producer itself, or by an operator.").with_code("wrong_role"));
    }
    services.producer(ProducerId(id)).await
}

async fn kept(services: &Shared, user: &User) -> Result<Json<KeptRecords>, ApiError> {
    let Kept { own, bounds, first, history, total } = services.backend.kept(user.log_key()).await?;
    let Bounds { log_age, log_bytes, history_age, history_rows } = bounds;
    let nearest = |bound, left: Duration| NearestBound { bound, seconds: left.as_secs().min(MOST_AGE) };
    Ok(Json(KeptRecords {
        producer_id: user.id.to_string(),
        log_age_seconds: log_age.as_secs(),
        log_bytes: log_bytes as u64,
        history_age_seconds: history_age.map(|age| age.as_secs()),
        history_rows,
        total_log_bytes: total.log_bytes,
        total_history_rows: total.history_rows,
        own: own.into(),
        first_cut: first.map(|(bound, left)| nearest(bound.as_str(), left)),
        history_cut: history.map(|(bound, left)| nearest(bound.as_str(), left)),
    }))
}

impl WantedRetention {
    /// The limits, where none is shorter than the operator allows.
    fn own(self, least: Duration) -> Result<OwnRetention, ApiError> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(ApiError::invalid(name, format!("{name} must be from {least} to {most}.")))
        };
        let age = |name: &str, value| Ok::<_, ApiError>(Duration::from_secs(within(name, value, least.as_secs(), MOST_AGE)?));
        let class = |class: WantedClass| {
            let fits = |text: &str| text.chars().count() <= LONGEST_LABEL;
            if class.label.is_empty() || !fits(&class.label) || !fits(&class.value) {
                return Err(ApiError::invalid(
                    "classes",
                    format!("A label has 1 to {LONGEST_LABEL} characters, its value at most as many."),
                ));
            }
            let history_age = age("history_age_seconds", class.history_age_seconds)?;
            Ok(ClassRetention { label: class.label, value: class.value, history_age })
        };
        let classes = self.classes.unwrap_or_default();
        if classes.len() > MOST_CLASSES {
            return Err(ApiError::invalid("classes", format!("There are at most {MOST_CLASSES} classes.")));
        }
        Ok(OwnRetention {
            log_age: self.log_age_seconds.map(|value| age("log_age_seconds", value)).transpose()?,
            log_bytes: self.log_bytes.map(|value| within("log_bytes", value, LEAST_BYTES, MOST_BYTES)).transpose()?,
            history_age: self.history_age_seconds.map(|value| age("history_age_seconds", value)).transpose()?,
            classes: classes.into_iter().map(class).collect::<Result<_, _>>()?,
        })
    }
}

impl From<OwnRetention> for WantedRetention {
    fn from(own: OwnRetention) -> Self {
        let class = |class: ClassRetention| {
            let history_age_seconds = class.history_age.as_secs();
            WantedClass { label: class.label, value: class.value, history_age_seconds }
        };
        Self {
            log_age_seconds: own.log_age.map(|age| age.as_secs()),
            log_bytes: own.log_bytes,
            history_age_seconds: own.history_age.map(|age| age.as_secs()),
            classes: Some(own.classes.into_iter().map(class).collect()),
        }
    }
}
