//! `POST /organisations`, `GET /organisations`, `GET` and `DELETE /organisations/:id`, and `PUT /organisations/:id/plan` for operators.

use axum::{extract::State, http::StatusCode};
use motience_auth::random_id;
use motience_http::{Admin, ApiError, Bearer, Json, Path, Query};
use motience_proto::model::{MemberRole, Role, plan::is_plain_name};
use motience_store::{self as store, MAX_PAGE};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{allowed, is_id, record};
use crate::http::Shared;

/// An organisation to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganisationWanted, example = json!({"name": "acme"}))]
pub(super) struct New {
    /// Letters, digits, `-`, `_` and `.`; no other organisation has it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._-]+$")]
    name: String,
}

/// A plan to be given.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OrganisationPlan, example = json!({"plan": null}))]
pub(super) struct Given {
    /// The name of a plan; `null`: none.
    #[schema(required)]
    plan: Option<String>,
}

/// An organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = Organisation, example = json!({"id": "3f9c", "name": "acme", "plan": null, "created_at": "2025-01-29T11:35:00Z"}))]
pub(super) struct Shown {
    id: String,
    name: String,
    /// The plan that an operator gave it; `null`: none.
    #[schema(required)]
    plan: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
}

/// An organisation with its members and accounts.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationWhole)]
pub(super) struct Whole {
    #[serde(flatten)]
    shown: Shown,
    members: Vec<Member>,
    accounts: Vec<Owned>,
}

/// A member of an organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationMember)]
pub(super) struct Member {
    user_id: i64,
    username: String,
    #[schema(pattern = "^(owner|manager|reader)$")]
    role: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    added_at: OffsetDateTime,
}

/// An account of an organisation.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationAccount)]
pub(super) struct Owned {
    user_id: i64,
    username: String,
    #[schema(pattern = "^(producer|consumer|admin)$")]
    role: String,
}

/// An organisation that has ended.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganisationEnded)]
pub(super) struct Ended {
    id: String,
    #[schema(example = "ended")]
    status: &'static str,
}

/// A part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// The last id already seen.
    #[param(max_length = 32)]
    after: Option<String>,
}

impl From<store::Organisation> for Shown {
    fn from(store::Organisation { id, name, plan, created_at }: store::Organisation) -> Self {
        Self { id, name, plan, created_at }
    }
}

/// Makes an organisation. The caller is its owner, and its first account where no organisation owns it yet.
#[utoipa::path(post, path = "/organisations", tag = "organisations", request_body = New, security(("bearer" = [])), responses(
    (status = 201, description = "The organisation", body = Shown),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which makes no organisations"),
    (status = 409, description = "The name is taken"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn create_organisation(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    if !is_plain_name(&new.name) {
        return Err(ApiError::invalid("name", "name must be 1 to 64 letters, digits, `-`, `_` and `.`."));
    }
    let organisation = store::Organisation { id: random_id(), name: new.name, plan: None, created_at: services.backend.clock.now() };
    let owner = (grant.role != Role::Admin).then_some(grant.user);
    if !services.backend.store.add_organisation(&organisation, owner).await? {
        return Err(ApiError::new(StatusCode::CONFLICT, "name_taken", "Another organisation has this name."));
    }
    record(&services, &grant, "organisation.create", &organisation.id, json!({"name": organisation.name})).await;
    Ok((StatusCode::CREATED, Json(organisation.into())))
}

/// Organisations that the caller is a member of; operators see all. At most 1000, by id.
#[utoipa::path(get, path = "/organisations", tag = "organisations", params(Wanted), security(("bearer" = [])), responses(
    (status = 200, description = "The organisations", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, which sees no organisations"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn organisations(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Shown>>, ApiError> {
    let member = (grant.role != Role::Admin).then_some(grant.user);
    let after = wanted.after.unwrap_or_default();
    if !after.is_empty() && !is_id(&after) {
        return Err(ApiError::invalid("after", "after must be an id of an organisation."));
    }
    let found = services.backend.store.organisations(member, &after, MAX_PAGE).await?;
    Ok(Json(found.into_iter().map(Into::into).collect()))
}

/// An organisation with its members and its accounts, for members.
#[utoipa::path(get, path = "/organisations/{id}", tag = "organisations", security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 200, description = "The organisation", body = Whole),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key"),
    (status = 404, description = "The caller is a member of no such organisation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn organisation(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
) -> Result<Json<Whole>, ApiError> {
    let shown = allowed(&services, &grant, &id, MemberRole::Reader).await?.into();
    let members = services.backend.store.members(&id).await?.into_iter();
    let members = members
        .map(|one| Member { user_id: one.user.0, username: one.username, role: one.role.as_str(), added_at: one.added_at })
        .collect();
    let accounts = services.backend.store.owned_accounts(&id).await?.into_iter();
    let accounts = accounts.map(|(user, username, role)| Owned { user_id: user.0, username, role }).collect();
    Ok(Json(Whole { shown, members, accounts }))
}

/// Ends an organisation. Its accounts stay, each on its own again; tokens of its members for them end.
#[utoipa::path(delete, path = "/organisations/{id}", tag = "organisations", security(("bearer" = [])),
    params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 200, description = "It is ended", body = Ended),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A key, or no owner"),
    (status = 404, description = "The caller is a member of no such organisation"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn end_organisation(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<String>,
) -> Result<Json<Ended>, ApiError> {
    let organisation = allowed(&services, &grant, &id, MemberRole::Owner).await?;
    let backend = &services.backend;
    backend.end_member_tokens(&id, None, None).await?;
    backend.store.remove_organisation(&id).await?;
    backend.quotas_changed().await;
    record(&services, &grant, "organisation.end", &id, json!({"name": organisation.name})).await;
    Ok(Json(Ended { id, status: "ended" }))
}

/// Gives an organisation a plan, or none: operators do.
#[utoipa::path(put, path = "/organisations/{id}/plan", operation_id = "plan_of_organisation", tag = "organisations", request_body = Given,
    security(("bearer" = [])), params(("id" = String, Path, description = "The organisation's id")), responses(
    (status = 200, description = "The organisation", body = Shown),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 404, description = "No such organisation, or no such plan"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn plan_of_organisation(
    State(services): State<Shared>,
    Admin { grant }: Admin,
    Path(id): Path<String>,
    Json(given): Json<Given>,
) -> Result<Json<Shown>, ApiError> {
    let backend = &services.backend;
    if !is_id(&id)
        || given.plan.as_ref().is_some_and(|plan| !is_plain_name(plan))
        || !backend.store.give_organisation_plan(&id, given.plan.as_deref()).await?
    {
        return Err(ApiError::not_found("There is no such organisation, or no such plan."));
    }
    backend.quotas_changed().await;
    record(&services, &grant, "plan.give", &id, json!({"plan": given.plan})).await;
    let organisation = backend.store.organisation(&id).await?.ok_or_else(|| ApiError::not_found("There is no such organisation."))?;
    Ok(Json(organisation.into()))
}
