//! `GET /accounts`: every account, for operators.

use axum::extract::State;
use motience_http::{Admin, ApiError, Page, PagePermit, Query};
use motience_proto::model::Account;
use motience_store::AccountQuery;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::{Shared, shapes};

/// Longest part of a name that is looked for, in characters: as long as a name.
const MAX_QUERY: usize = 255;

/// Which accounts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of this role only: `producer`, `consumer` or `admin`.
    #[param(pattern = "^(producer|consumer|admin)$")]
    role: Option<String>,
    /// A part of the name, in whichever case.
    #[param(max_length = 255)]
    query: Option<String>,
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen.
    #[param(minimum = 0)]
    after: Option<i64>,
}

/// Accounts by id, revoked ones too. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/accounts", tag = "operators", params(Wanted), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them", body = [shapes::Account]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn accounts(
    State(services): State<Shared>,
    _caller: Admin,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Account>, ApiError> {
    let query = wanted.query()?;
    let accounts = services.backend.store.accounts(&query).await?;
    let full = accounts.len() == query.page.limit as usize;
    let page = Page::new(permit, accounts, services.config.page)?;
    Ok(page.followed_by(full, |last| wanted.next(query.page.after(last.user.id.0))))
}

impl Wanted {
    fn query(&self) -> Result<AccountQuery, ApiError> {
        let role = self.role.as_deref().map(str::parse).transpose();
        let role = role.map_err(|_| ApiError::invalid("role", "role must be producer, consumer or admin."))?;
        let name = self.query.clone().unwrap_or_default();
        if name.chars().count() > MAX_QUERY {
            return Err(ApiError::invalid("query", format!("query must have at most {MAX_QUERY} characters.")));
        }
        Ok(AccountQuery { role, name, page: shapes::Paging::new(self.limit, self.after).page()? })
    }

    /// The query of the next part.
    fn next(&self, mut next: String) -> String {
        if let Some(role) = &self.role {
            next.push_str(&format!("&role={role}"));
        }
        if let Some(query) = &self.query {
            next.push_str("&query=");
            next.push_str(&shapes::in_query(query));
        }
        next
    }
}
