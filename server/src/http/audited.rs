//! The layer that tells the audit log where a request comes from, and of requests that would have changed something and were refused.

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use motience_backend::attempts::Attempt;
use motience_http::{Client, refusal};
use motience_proto::model::UserId;
use motience_runtime::origin::Origin;

use super::Shared;

/// Paths under which a service answers too.
const PREFIXES: [&str; 5] = ["/api/auth", "/api", "/ap", "/sm", "/dsm"];
/// Paths that change nobody's rights, however often they are asked: records, confirmed cursors, and the question whether a token is good.
const NO_ACTS: [&str; 3] = ["/data", "/cursors", "/verify"];

pub(super) async fn audited(State(services): State<Shared>, Client(client): Client, request: Request, next: Next) -> Response {
    let origin = Origin::new(client.ip());
    let route = request.extensions().get::<MatchedPath>().map_or("", |route| bare(route.as_str()));
    let is_act = !request.method().is_safe() && !NO_ACTS.iter().any(|path| route.starts_with(path)) && !route.is_empty();
    let asked = is_act.then(|| (word(request.method(), route), bare(request.uri().path()).to_owned()));
    let response = origin.clone().serve(next.run(request)).await;
    if let Some((act, object)) = asked
        && let Some((code, meant)) = refusal(&response)
        && let Some(failed) = failed(response.status())
    {
        let account = origin.account().map(UserId);
        let meant = meant.map(str::to_owned);
        services.backend.attempts.note(Attempt { act, object, code, failed, account, meant, address: origin.address() });
    }
    response
}

fn word(method: &Method, route: &str) -> String {
    format!("{method} {route}")
}

/// The path as the documents have it.
fn bare(path: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix).filter(|rest| rest.starts_with('/'))).unwrap_or(path)
}

/// Whether a status says that the platform failed, rather than that it refused; `None`: the request was done, or could not be read.
fn failed(status: StatusCode) -> Option<bool> {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::CONFLICT
        | StatusCode::GONE
        | StatusCode::TOO_MANY_REQUESTS => Some(false),
        other => other.is_server_error().then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_name_wherever_it_is_asked() {
        for path in ["/login", "/ap/login", "/api/auth/login", "/api/login"] {
            assert_eq!(bare(path), "/login");
        }
        assert_eq!(bare("/apples"), "/apples");
    }
}
