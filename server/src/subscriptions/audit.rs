//! `GET /audit`: the audit log, for operators: acts and refused attempts, with where they came from.

use axum::extract::State;
use motience_http::{Admin, ApiError, Page, PagePermit, Query};
use motience_proto::model::{UserId, times};
use motience_store::{self as store, ActQuery, MAX_OBJECT, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::http::{Shared, shapes};

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// About this thing only.
    #[param(max_length = 320, example = "subscription:12")]
    object: Option<String>,
    /// Of this account only.
    #[param(minimum = 1)]
    actor: Option<i64>,
    /// By this account, or about it.
    #[param(minimum = 1)]
    account: Option<i64>,
    /// This deed, or all that begin so and go on behind a dot.
    #[param(max_length = 320, example = "subscription")]
    act: Option<String>,
    /// Only what was `done`, `refused` or `failed`.
    #[param(pattern = "^(done|refused|failed)$")]
    outcome: Option<String>,
    /// From this address only; of IPv6 the /64.
    #[param(max_length = 320, example = "192.0.2.7")]
    address: Option<String>,
    /// At this time or later.
    #[param(value_type = Option<shapes::Time>, inline)]
    from: Option<String>,
    /// Earlier than this.
    #[param(value_type = Option<shapes::Time>, inline)]
    to: Option<String>,
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen: older ones come.
    #[param(minimum = 0)]
    before: Option<i64>,
}

/// A line of the audit log.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 9, "at": "2025-01-29T11:35:00Z", "actor": null, "act": "POST /login", "object": "account:3", "outcome": "refused",
    "address": "192.0.2.7", "detail": {"code": "wrong_credentials", "count": 4}, "chain": 9,
    "hash": "f2ca1bb6c7e907d06dafe4687e579fce76b37e4e93b7605022da52e6ccc26fd2"}))]
pub(super) struct AuditEntry {
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    at: OffsetDateTime,
    /// The account that did it or tried; `null`: nobody that is known, the operator's command line, or the platform itself.
    #[schema(value_type = Option<i64>, required)]
    actor: Option<UserId>,
    act: String,
    object: String,
    #[schema(pattern = "^(done|refused|failed)$")]
    outcome: &'static str,
    /// Address that it came from; `null`: none, or it was erased with its account.
    #[schema(required)]
    address: Option<String>,
    /// More about it, or `null`.
    #[schema(value_type = Value)]
    detail: Value,
    /// Its place in the chain; `null`: it has none yet.
    #[schema(required)]
    chain: Option<i64>,
    /// Its hash there.
    #[schema(required)]
    hash: Option<String>,
}

/// The audit log, the newest first. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/audit", tag = "operators", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "Some of it", body = [AuditEntry]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn audit(
    State(services): State<Shared>,
    _caller: Admin,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<AuditEntry>, ApiError> {
    let query = wanted.query()?;
    services.backend.attempts.record().await?;
    let found = services.backend.store.acts(&query).await?;
    let full = found.len() == query.limit as usize;
    let page = Page::new(permit, found.into_iter().map(AuditEntry::from).collect(), services.config.page)?;
    Ok(page.followed_by(full, |last| wanted.next(query.limit, last.id)))
}

impl Wanted {
    fn query(&self) -> Result<ActQuery, ApiError> {
        let texts = [("object", &self.object), ("act", &self.act), ("address", &self.address)];
        if let Some((name, _)) = texts.iter().find(|(_, text)| text.as_ref().is_some_and(|text| text.chars().count() > MAX_OBJECT)) {
            return Err(ApiError::invalid(name, format!("{name} has at most {MAX_OBJECT} characters.")));
        }
        for (name, account) in [("actor", self.actor), ("account", self.account)] {
            if account.is_some_and(|account| account < 1) {
                return Err(ApiError::invalid(name, format!("{name} must be 1 or more.")));
            }
        }
        let time = |name: &str, text: &Option<String>| match text {
            Some(text) => times::read(text).map(Some).ok_or_else(|| ApiError::invalid(name, format!("{name} must be {}.", times::FORMS))),
            None => Ok(None),
        };
        let outcome = match self.outcome.as_deref() {
            None => None,
            Some("done") => Some(Outcome::Done),
            Some("refused") => Some(Outcome::Refused),
            Some("failed") => Some(Outcome::Failed),
            Some(_) => return Err(ApiError::invalid("outcome", "outcome must be done, refused or failed.")),
        };
        Ok(ActQuery {
            actor: self.actor.map(UserId),
            object: self.object.clone(),
            reader: self.account.map(UserId),
            act: self.act.clone(),
            outcome,
            address: self.address.clone(),
            from: time("from", &self.from)?,
            to: time("to", &self.to)?,
            before: self.before,
            limit: shapes::Paging::new(self.limit, self.before).page()?.limit,
        })
    }

    fn next(&self, limit: u32, last: i64) -> String {
        let mut next = format!("limit={limit}&before={last}");
        let texts = [
            ("object", &self.object),
            ("act", &self.act),
            ("outcome", &self.outcome),
            ("address", &self.address),
            ("from", &self.from),
            ("to", &self.to),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                next.push_str(&format!("&{name}={}", shapes::in_query(text)));
            }
        }
        for (name, account) in [("actor", self.actor), ("account", self.account)] {
            if let Some(account) = account {
                next.push_str(&format!("&{name}={account}"));
            }
        }
        next
    }
}

impl From<store::Act> for AuditEntry {
    fn from(act: store::Act) -> Self {
        let store::Act { id, at, actor, act, object, detail, outcome, address, chain } = act;
        let (chain, hash) = chain.unzip();
        Self { id, at, actor, act, object, outcome: outcome.as_str(), address, detail, chain, hash }
    }
}
