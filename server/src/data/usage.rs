//! `GET /usage`: records and bytes that went in and out, by hour, of an account or of all accounts of an organisation.

use axum::extract::State;
use motience_http::{ApiError, Json, Look, Query, Scoped};
use motience_proto::model::{MemberRole, Role, UserId, times};
use motience_store::{MAX_PAGE, UsageHour, UsageQuery};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::{
    http::{Shared, shapes},
    organisations::is_id,
};

/// Most entries that can be skipped.
const MOST_SKIPPED: u32 = 1_000_000;

/// The usage to be told.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Earliest hour, itself included; RFC 3339, without an offset for UTC, or milliseconds since 1970. Default: a day ago.
    #[param(value_type = Option<shapes::Time>, inline)]
    from: Option<String>,
    /// The hour before which it ends, likewise. Default: now.
    #[param(value_type = Option<shapes::Time>, inline)]
    to: Option<String>,
    /// Whether hours are summed up.
    sum: Option<bool>,
    /// Of this account. Default: the caller's; an operator's: all.
    #[param(minimum = 1)]
    account: Option<i64>,
    /// Of all accounts of this organisation.
    #[param(max_length = 32)]
    organisation: Option<String>,
    /// Entries already seen: an answer has at most 1000.
    #[param(minimum = 0, maximum = 1_000_000)]
    skip: Option<u32>,
}

/// Records of an hour, or of all the time asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = Usage, example = json!({"account_id": 1, "hour": "2025-01-29T11:00:00Z", "direction": "in", "producer_id": "1", "device_id": "rpi_001", "records": 3600, "bytes": 540_000}))]
pub(super) struct Shown {
    /// The account that sent them, or that received them.
    account_id: i64,
    /// The hour's beginning; of the first hour, where they are summed up.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    hour: OffsetDateTime,
    /// `in`: taken in from a device. `out`: given out to a consumer.
    #[schema(pattern = "^(in|out)$")]
    direction: &'static str,
    /// The producer of the records; as consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    /// The device that sent them; left out for `out`.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    records: u64,
    /// Of the records as consumers receive them.
    bytes: u64,
}

/// Records and bytes by hour, account, direction, producer and device, each record counted once, whatever was sent or given out again. Of what went out, the
/// last seconds may be missing.
#[utoipa::path(get, path = "/usage", tag = "data", params(Wanted), security(("bearer" = [])), responses(
    (status = 200, description = "Some of it", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the account, nor a member of its organisation, nor an operator"),
    (status = 404, description = "Usage is not counted here (COUNT_USAGE), or no such organisation"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn usage(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Vec<Shown>>, ApiError> {
    let (backend, now) = (&services.backend, services.backend.clock.now());
    if !backend.relay.limits().count_usage {
        return Err(ApiError::not_found("Usage is not counted here (COUNT_USAGE).").with_code("usage_not_counted"));
    }
    let second = |name: &str, text: Option<&str>, default: OffsetDateTime| match text {
        None => Ok(default.unix_timestamp()),
        Some(text) => times::read(text)
            .map(OffsetDateTime::unix_timestamp)
            .ok_or_else(|| ApiError::invalid(name, format!("{name} must be {}.", times::FORMS))),
    };
    let from = second("from", wanted.from.as_deref(), now - time::Duration::DAY)?;
    let to = second("to", wanted.to.as_deref(), now + time::Duration::SECOND)?;
    let skip = wanted.skip.unwrap_or(0);
    if skip > MOST_SKIPPED {
        return Err(ApiError::invalid("skip", format!("skip must be at most {MOST_SKIPPED}.")));
    }
    let refused = || ApiError::forbidden("Only the account itself, members of its organisation and operators may do this.");
    let users = match (wanted.organisation, wanted.account.map(UserId)) {
        (Some(id), _) => {
            if !is_id(&id) {
                return Err(ApiError::not_found("There is no such organisation."));
            }
            let member =
                if grant.role == Role::Admin { Some(MemberRole::Owner) } else { backend.store.member_role(&id, grant.user).await? };
            member.filter(|_| grant.scopes.are_all()).ok_or_else(|| ApiError::not_found("There is no such organisation."))?;
            let users: Vec<UserId> = backend.store.owned_accounts(&id).await?.into_iter().map(|(user, ..)| user).collect();
            if users.is_empty() {
                return Ok(Json(Vec::new()));
            }
            users
        }
        (None, Some(account)) if account == grant.user || grant.role == Role::Admin => vec![account],
        (None, Some(account)) => {
            let role = backend.store.role_over(grant.user, account).await?.filter(|_| grant.scopes.are_all());
            role.ok_or_else(refused)?;
            vec![account]
        }
        (None, None) if grant.role == Role::Admin => Vec::new(),
        (None, None) => vec![grant.user],
    };
    grant.may_look_everywhere()?;
    let query = UsageQuery { users, from: from - from.rem_euclid(3600), to, summed: wanted.sum.unwrap_or(false) };
    let found = backend.store.usage(&query, skip).await?;
    debug_assert!(found.len() <= MAX_PAGE as usize);
    Ok(Json(found.into_iter().map(shown).collect()))
}

fn shown(hour: UsageHour) -> Shown {
    Shown {
        account_id: hour.user.0,
        hour: OffsetDateTime::from_unix_timestamp(hour.hour).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        direction: if hour.out { "out" } else { "in" },
        producer_id: hour.producer.to_string(),
        device_id: (!hour.out).then_some(hour.device),
        records: hour.records,
        bytes: hour.bytes,
    }
}
