//! Refused requests in the log: one line of each code in a while, with who asked for what, so that whoever guesses passwords or uses up a
//! limit can be found. A flood of them is no flood of lines; the metrics count each.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use motience_proto::model::Transport;
use motience_runtime::telemetry::Sampler;
use tracing::info;

use super::ClientAddress;
use super::client::Client;

/// Between two lines of one code.
const EVERY: Duration = Duration::from_secs(1);
/// Characters of a path and of an account's name that are logged.
const LONGEST: usize = 64;

/// Why a response is a refusal: an extension of it.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) code: &'static str,
    /// The account that was meant, as the client wrote it.
    pub(super) account: Option<Box<str>>,
}

/// Logs what a router refuses, whose state knows the proxies.
pub async fn log_refusals(Client(client): Client, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    log_refusal(&response, client, &method, uri.path());
    response
}

/// Logs a response, if it is a refusal that is the client's own doing. The query is left out: it may hold a token.
pub fn log_refusal(response: &Response, client: ClientAddress, method: &Method, path: &str) {
    static SAMPLER: Sampler = Sampler::new(EVERY);
    let status: StatusCode = response.status();
    let Some(Refused { code, account }) = response.extensions().get().filter(|_| status.is_client_error()) else { return };
    let Some(held) = SAMPLER.pass(code) else { return };
    // Formatted so that nobody can forge a line, nor hide in one: quoted, with everything escaped that is no plain character.
    let account = account.as_deref().map(|name| tracing::field::debug(shortened(name).to_owned()));
    info!(status = status.as_u16(), code, %client, %method, path = ?shortened(path), account, more = held, "a request is refused");
}

/// Code of a response that is a refusal, and the account that was meant, as the client wrote it.
pub fn refusal(response: &Response) -> Option<(&'static str, Option<&str>)> {
    response.extensions().get().map(|Refused { code, account }| (*code, account.as_deref()))
}

/// Counts a session that is refused before it begins, and logs one of each kind in a second. `why`: what the client is told, which may
/// quote it.
pub fn session_refused(transport: Transport, code: &'static str, client: ClientAddress, why: &str) {
    static SAMPLER: Sampler<(&str, &str)> = Sampler::new(EVERY);
    let transport = transport.as_str();
    metrics::counter!("motience_sessions_refused_total", "transport" => transport, "code" => code).increment(1);
    if let Some(held) = SAMPLER.pass((transport, code)) {
        let why = &why[..why.floor_char_boundary(120)];
        info!(transport, code, %client, why, more = held, "a session is refused");
    }
}

fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(LONGEST).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
