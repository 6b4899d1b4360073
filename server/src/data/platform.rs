//! `GET /platform`: the stores of the node that is asked, how retention presses, and the platform's rates over the last day. For operators.

use std::time::{Duration, Instant};

use axum::extract::State;
use motience_backend::{DurableBacklog, pressure::Pressed};
use motience_cluster as cluster;
use motience_http::{Admin, ApiError, Json};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::http::Shared;

/// A store that has not answered for this long does not.
const LIMIT: Duration = Duration::from_secs(2);

/// The state of the platform, as one node sees it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"node": "node-1", "database": {"answers": true, "milliseconds": 0.4}, "log": {"answers": true, "milliseconds": 0.1}, "durability": "file",
    "log_full": false, "log_damaged": 0, "retention_held": 0, "first_cut": {"consumer_id": 2, "cursor": "app", "producer_id": "1", "records": 480, "seconds": 11520, "bound": "age"},
    "cuts": [{"producer_id": "1", "bound": "bytes", "seconds": 7200}], "minutes": [{"at": "2025-01-29T11:35:00Z", "records_in_per_second": 118.5, "records_out_per_second": 4740.0, "connections": 163.0}]}))]
pub(super) struct Platform {
    /// The node that answers.
    node: String,
    database: Store,
    log: Store,
    /// Durability of an acknowledged record there.
    durability: String,
    /// Whether the log takes in nothing because it has no room.
    log_full: bool,
    /// Parts of the log that cannot be read and are passed over.
    log_damaged: u64,
    /// Logs of which retention takes nothing, since the clock has jumped.
    retention_held: u64,
    /// The unread records that retention removes first; `null`: none are unread, or nobody knows. Unread is what a named cursor has yet to confirm.
    #[schema(required)]
    first_cut: Option<FirstCut>,
    /// The logs that grow fastest, and what removes the oldest record of each first: those come first that lose records by their bytes before they
    /// are too old.
    cuts: Vec<LogCut>,
    /// Minutes of the last day, since the node that answers has started, the newest last.
    minutes: Vec<Minute>,
}

/// Records that retention removes unread, if their consumer goes on as it does.
#[derive(Serialize, ToSchema)]
pub(super) struct FirstCut {
    consumer_id: i64,
    /// The consumer's name for its cursor.
    cursor: String,
    /// As consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    /// Records that the consumer has yet to confirm.
    records: u64,
    /// Time until the first of them is removed, if the log goes on to grow as lately.
    seconds: u64,
    /// The bound that is reached first: `age` (LOG_RETENTION) or `bytes` (LOG_RETENTION_BYTES).
    #[schema(pattern = "^(age|bytes)$")]
    bound: &'static str,
}

/// The next cut of a log.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"producer_id": "1", "bound": "bytes", "seconds": 7200}))]
pub(super) struct LogCut {
    /// As consumers see it: a string.
    producer_id: String,
    /// The bound that is reached first.
    #[schema(pattern = "^(age|bytes)$")]
    bound: &'static str,
    /// Time until then, if the log goes on to grow as lately.
    seconds: u64,
}

/// How a store is.
#[derive(Serialize, ToSchema)]
pub(super) struct Store {
    /// Whether it has answered within two seconds.
    answers: bool,
    /// Time until it did; `null`: it did not.
    #[schema(required)]
    milliseconds: Option<f64>,
}

/// Means of one minute, all nodes together.
#[derive(Serialize, ToSchema)]
pub(super) struct Minute {
    /// Its beginning.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    at: OffsetDateTime,
    records_in_per_second: f64,
    records_out_per_second: f64,
    connections: f64,
}

/// How the node's stores are, and what the platform did over the last day.
#[utoipa::path(get, path = "/platform", tag = "operators", security(("bearer" = [])), responses(
    (status = 200, description = "The state of the platform", body = Platform),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
))]
pub(super) async fn platform(State(services): State<Shared>, _caller: Admin) -> Result<Json<Platform>, ApiError> {
    let backend = &services.backend;
    let log = backend.relay.log();
    let (database, asked, worst, pressed) = tokio::join!(
        ask(backend.store.ping()),
        ask(log.ping()),
        tokio::time::timeout(LIMIT, backend.backlogs.worst(1)),
        tokio::time::timeout(LIMIT, backend.pressure.look())
    );
    let cuts = pressed.ok().and_then(Result::ok).unwrap_or_default();
    let first_cut = worst.ok().and_then(Result::ok).and_then(|worst| FirstCut::of(worst.first_cut.first()?));
    Ok(Json(Platform {
        node: backend.node.clone(),
        database,
        log: asked,
        durability: log.durability(),
        log_full: log.is_full(),
        log_damaged: log.damaged(),
        retention_held: log.held(),
        first_cut,
        cuts: cuts.into_iter().map(LogCut::from).collect(),
        minutes: backend.reports.day().into_iter().map(Minute::from).collect(),
    }))
}

impl From<Pressed> for LogCut {
    fn from(Pressed { producer, bound, left }: Pressed) -> Self {
        Self { producer_id: producer.to_string(), bound: bound.as_str(), seconds: left.as_secs() }
    }
}

impl FirstCut {
    fn of(one: &DurableBacklog) -> Option<Self> {
        let cut = one.backlog.cut?;
        Some(Self {
            consumer_id: one.consumer.0,
            cursor: one.name.to_string(),
            producer_id: one.producer.to_string(),
            records: one.backlog.records,
            seconds: cut.left.as_secs(),
            bound: cut.bound.as_str(),
        })
    }
}

async fn ask<T, E>(ping: impl Future<Output = Result<T, E>>) -> Store {
    let begun = Instant::now();
    let answers = matches!(tokio::time::timeout(LIMIT, ping).await, Ok(Ok(_)));
    Store { answers, milliseconds: answers.then(|| begun.elapsed().as_secs_f64() * 1000.0) }
}

impl From<cluster::Minute> for Minute {
    fn from(cluster::Minute { at, records_in, records_out, connections }: cluster::Minute) -> Self {
        Self { at, records_in_per_second: records_in, records_out_per_second: records_out, connections }
    }
}
