//! `GET /plans`, for operators, and `GET /organisations/:id/plan`: how much an organisation may have, and how much of it is in use.

use std::collections::BTreeMap;

use axum::extract::State;
use motience_http::{Admin, ApiError, Bearer, Json, Path};
use motience_limits::quota::Unit;
use motience_proto::model::{MemberRole, PlanLimits, Role, User};
use serde::Serialize;
use utoipa::ToSchema;

use super::allowed;
use crate::http::Shared;

/// Known of each log whatever the plan says.
const RECORDS: &str = "records_per_second";

/// A plan.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"name": "small", "limits": {"records_per_second": 100, "devices": 20}}))]
pub(super) struct Plan {
    name: String,
    /// Its limits by their names. One that is left out is none.
    #[schema(value_type = BTreeMap<String, u64>)]
    limits: PlanLimits,
}

/// The plan of an organisation, and how much of it is in use.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"plan": "small", "limits": {"records_per_second": 100, "bytes_per_second": 50_000, "devices": 20},
    "used": {"records_per_second": 12.5, "bytes_per_second": 2125.0, "connections": 1.0, "devices": 3.0, "follows": 2.0}}))]
pub(super) struct PlanUsed {
    /// Its name; `null`: it has none.
    #[schema(required)]
    plan: Option<String>,
    /// Its limits by their names. One that is left out is none.
    #[schema(value_type = BTreeMap<String, u64>)]
    limits: PlanLimits,
    /// Of all accounts together, on all nodes: rates over the last ten seconds (of records that are taken in always, others where the plan limits
    /// them), `devices` and, with a plan, `connections` that are open now, and `follows`; where the plan bounds them, `total_log_bytes` and
    /// `total_history_rows`.
    used: BTreeMap<&'static str, f64>,
}

/// All plans, by name.
#[utoipa::path(get, path = "/plans", tag = "organisations", security(("bearer" = [])), responses(
    (status = 200, description = "The plans", body = [Plan]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn plans(State(services): State<Shared>, _caller: Admin) -> Result<Json<Vec<Plan>>, ApiError> {
    let plans = services.backend.store.plans().await?.into_iter();
    Ok(Json(plans.map(|(name, limits)| Plan { name, limits }).collect()))
}

/// The plan of an organisation, and how much of it is in use, for members.
#[utoipa::path(get, path = "/organisations/{id}/plan", operation_id = "organisation_plan", tag = "organisations", security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 200, description = "The plan", body = PlanUsed),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key"),
    (status = 404, description = "The caller is a member of no such organisation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn organisation_plan(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
) -> Result<Json<PlanUsed>, ApiError> {
    let plan = allowed(&services, &grant, &id, MemberRole::Reader).await?.plan;
    let backend = &services.backend;
    let limits = match &plan {
        Some(plan) => backend.store.plans().await?.into_iter().find(|(name, _)| name == plan).map(|(_, limits)| limits),
        None => None,
    };
    let ids: Vec<_> = backend.store.owned_accounts(&id).await?.into_iter().map(|(user, ..)| user).collect();
    let owned = backend.store.users_by_id(&ids).await?;
    let streams = backend.reports.live_streams(backend.relay.log()).await.into_iter();
    let records =
        streams.filter(|live| owned.get(&live.producer.user()).is_some_and(|user| user.log_key() == live.key)).map(|live| live.rate);
    let producers: Vec<_> = owned.values().filter(|user| user.role == Role::Producer).map(User::log_key).collect();
    let devices = backend.reports.connected_devices(backend.relay.log(), producers).await;
    let follows = backend.store.organisation_wanted_count(&id, backend.clock.now()).await?;
    let mut used = BTreeMap::from([(RECORDS, records.sum()), ("devices", devices as f64), ("follows", follows as f64)]);
    let limits = limits.unwrap_or_default();
    if plan.is_some() {
        let now = backend.reports.plan_used(&id);
        used.insert("connections", now.connections as f64);
        for limit in Unit::limited_by(&limits).map(Unit::limit).filter(|limit| *limit != RECORDS) {
            used.insert(limit, now.rates.get(limit).copied().unwrap_or_default());
        }
    }
    // Counted only where somebody may want to know how much is left.
    if limits.total_log_bytes.is_some() {
        used.insert("total_log_bytes", backend.log_bytes_of(&ids).await? as f64);
    }
    if limits.total_history_rows.is_some() {
        used.insert("total_history_rows", backend.history_rows_of(&ids).await? as f64);
    }
    Ok(Json(PlanUsed { plan, limits, used }))
}
