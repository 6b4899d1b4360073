//! `GET /producers` and `GET /consumers`: who there is.

use axum::extract::State;
use motience_http::{ApiError, Look, Page, PagePermit, Query, Scoped};
use motience_proto::model::User;
use motience_store as store;

use crate::http::{Shared, shapes};

/// Producers that the caller may see, by id: all but private ones that have not invited it, or that its key's scopes do not name. Revoked ones are left
/// out.
#[utoipa::path(get, path = "/producers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::User]),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn producers(
    State(services): State<Shared>,
    Scoped { grant: caller, .. }: Scoped<Look>,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<User>, ApiError> {
    let page = paging.page()?;
    let users = services.visible_producers(&caller, page).await?;
    listed(&services, users, |user| services.shows(&caller, user), page, permit)
}

/// Consumers, by id: all where producers are open by default, and for operators; else those that have to do with the caller. Revoked ones are
/// left out.
#[utoipa::path(get, path = "/consumers", tag = "accounts", params(shapes::Paging), security(("bearer" = [])), responses(
    (status = 200, description = "Some of them; where there may be more, `Link` names the next part", body = [shapes::User]),
    (status = 401, description = "No or bad token"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn consumers(
    State(services): State<Shared>,
    Scoped { grant: caller, .. }: Scoped<Look>,
    Query(paging): Query<shapes::Paging>,
    permit: PagePermit,
) -> Result<Page<User>, ApiError> {
    let page = paging.page()?;
    listed(&services, services.visible_consumers(&caller, page).await?, |_| true, page, permit)
}

fn listed(
    services: &Shared,
    mut users: Vec<User>,
    shown: impl Fn(&User) -> bool,
    page: store::Page,
    permit: PagePermit,
) -> Result<Page<User>, ApiError> {
    let full = users.len() == page.limit as usize;
    let end = users.last().map_or(page.after, |last| last.id.0);
    users.retain(shown);
    let listed = Page::new(permit, users, services.config.page)?.followed_by(full, |last| page.after(last.id.0));
    Ok(listed.or_followed_by(full, || page.after(end)))
}
