//! WebTransport for browsers, beside HTTP/3 on the same UDP port (draft-ietf-webtrans-http3).
//!
//! ```text
//! CONNECT /wt -> Origin, permit -> session: streams and datagrams -> hello -> consumer | producer
//! ```
//!
//! `motience_h3` sorts streams by session and reads the CONNECT stream. `session` has the reasons why a session ends, `messages` the lines on its
//! streams, `consumer` and `producer` their meaning.

mod config;
mod consumer;
mod delivery;
mod messages;
mod newest;
mod producer;
mod session;

use std::{sync::Arc, time::Duration};

use axum::{http::StatusCode, response::IntoResponse as _};
use motience_auth::{Client, Grant};
use motience_backend::Backend;
use motience_cluster::Kind;
use motience_h3::{Connect, Error, Inbox, Incoming};
use motience_http::{ApiError, ClientAddress, check_origin, is_path, log_refusal};
use motience_limits::{
    permits::{Permit, Share},
    uploads,
};
use motience_proto::model::{Role, Transport};
use motience_runtime::{lifecycle::Draining, traces};
use motience_session::{CloseReason, NoEvents, report_end, wanted_events, while_authorized};
use tokio::time::timeout;
use tracing::{Instrument as _, Span, field::Empty, info_span};

pub use config::Config;

use self::{
    messages::{ClientMessage, Lines},
    session::{Outgoing, Peer},
};

/// Where sessions are opened.
const PATH: &str = "/wt";
/// How long a client has to take the close of a session, and again to end it.
const CLOSE_LIMIT: Duration = Duration::from_millis(800);
/// Longest line of a control stream that is no record, in bytes.
const MAX_LINE: usize = 32 * 1024;

/// The parts that every session uses.
pub(crate) struct Shared {
    pub(crate) backend: Arc<Backend>,
    pub(crate) config: Config,
    draining: Draining,
}

impl Shared {
    /// Over this backend.
    pub(crate) fn new(backend: Arc<Backend>, config: Config, draining: Draining) -> Self {
        Self { backend, config, draining }
    }
}

/// Serves one session, from its CONNECT to its end.
pub(crate) async fn serve(connect: Connect, uploads: &uploads::Connection, shared: &Arc<Shared>) -> Result<(), Error> {
    let peer = Peer { inner: connect.peer(), write: shared.config.h3.write, uploads: uploads.clone() };
    let (permit, inbox) = match admit(&connect, peer.client(), shared) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let refusal = refusal.into_response();
            log_refusal(&refusal, peer.client(), &connect.parts.method, connect.parts.uri.path());
            return connect.refuse(refusal, shared.backend.clock.now()).await;
        }
    };
    let opened = traces::Connection::begin("webtransport");
    let span = info_span!("webtransport", session = inbox.id, connection = opened.number, trace = opened.trace(), user = Empty);
    let mut control = connect.accept().await?;
    let _open = (Open::new(), shared.backend.reports.nodes.open(Kind::WebTransport));
    let ending = tokio::select! {
        biased;
        how = control.ended() => CloseReason::gone(how),
        ending = serve_session(&peer, inbox, permit, shared).instrument(span) => ending,
    };
    drop(opened);
    match ending.webtransport() {
        Some(code) => control.close(CLOSE_LIMIT, code, &ending.to_string()).await,
        None => control.finish().await,
    }
}

/// Everything that can be checked before there is a session.
fn admit(connect: &Connect, client: ClientAddress, shared: &Shared) -> Result<(Permit, Inbox), ApiError> {
    if !is_path(connect.parts.uri.path(), PATH) {
        return Err(ApiError::not_found("There is nothing at this path."));
    }
    check_origin(&connect.parts.headers, &shared.config.origins)?;
    if shared.draining.begun().is_cancelled() {
        return Err(ApiError::draining());
    }
    let permit = shared.backend.permits.unauthenticated(client, Transport::WebTransport)?;
    let inbox = connect.register().ok_or_else(|| {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_sessions", "This connection has as many sessions as it may have.")
    })?;
    Ok((permit, inbox))
}

/// Serves a session from its first stream to its close reason.
async fn serve_session(peer: &Peer, mut inbox: Inbox, mut permit: Permit, shared: &Arc<Shared>) -> CloseReason {
    let leave = shared.draining.enter();
    // Streams that overtook the control stream.
    let mut early = Vec::new();
    let control = tokio::select! {
        biased;
        () = leave.asked().cancelled() => return CloseReason::Draining,
        control = timeout(shared.config.hello, control_stream(&mut inbox, &mut early)) => control,
    };
    let (mut send, mut lines) = match control {
        Ok(Ok(control)) => control,
        Ok(Err(ending)) => return ending,
        Err(_) => return CloseReason::protocol("no hello in time"),
    };
    let outcome = async {
        let hello = timeout(shared.config.hello, read_hello(&mut lines, shared)).await;
        let (grant, events) = hello.map_err(|_| CloseReason::protocol("no hello in time"))??;
        permit.identify(grant.user, Share::Connections)?;
        Span::current().record("user", tracing::field::display(grant.user));
        let client = Client { transport: Transport::WebTransport, address: permit.address(), device: None };
        let standing = Arc::new(shared.backend.standing(grant, client));
        let serving = async {
            let news = match standing.grant().role {
                Role::Consumer => None,
                _ => wanted_events(&shared.backend, &standing.grant(), events.as_deref()).map_err(|refused| match refused {
                    NoEvents::Denied(denied) => denied.into(),
                    NoEvents::Unknown => CloseReason::protocol(refused.to_string()),
                })?,
            };
            say(&mut send, peer, &messages::welcome(&shared.backend, &standing)).await?;
            match standing.grant().role {
                Role::Consumer => consumer::serve(peer, (&mut send, &mut lines), inbox, &standing, (shared, &leave)).await,
                _ => producer::serve(peer, (&mut send, &mut lines), (inbox, early), (&standing, news), (shared, &leave)).await,
            }
        };
        while_authorized(&standing, serving).await
    };
    let ending = outcome.await.err().unwrap_or(CloseReason::Done);
    report_end(&ending, Transport::WebTransport, peer.client(), &permit);
    // The client still reads the lines written before the end.
    send.finish();
    ending
}

/// The client's first bidirectional stream.
async fn control_stream(inbox: &mut Inbox, early: &mut Vec<Incoming>) -> Result<(Outgoing, Lines), CloseReason> {
    loop {
        match inbox.streams.recv().await {
            Some(Incoming::Bidi(send, recv, buffer)) => return Ok((Outgoing::new(send), Lines::new(recv, buffer, MAX_LINE))),
            Some(uni) => early.push(uni),
            None => return Err(CloseReason::gone("the connection is over")),
        }
    }
}

async fn read_hello(lines: &mut Lines, shared: &Shared) -> Result<(Grant, Option<String>), CloseReason> {
    let line = lines.next().await?.ok_or_else(|| CloseReason::protocol("no hello"))?;
    let message = ClientMessage::read(&line)?;
    if message.r#type != "hello" {
        return Err(CloseReason::protocol(format!("{} before hello", message.r#type)));
    }
    Ok((messages::authenticate(&shared.backend, message.token.as_deref()).await?, message.events))
}

/// Writes one line to the control stream.
async fn say(send: &mut Outgoing, peer: &Peer, line: &str) -> Result<(), CloseReason> {
    send.write_within(peer.write, format!("{line}\n").into()).await
}

/// Counts open sessions.
struct Open;

impl Open {
    fn new() -> Self {
        metrics::gauge!("motience_webtransport_sessions").increment(1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("motience_webtransport_sessions").decrement(1);
    }
}

/// Counts records that went through.
fn count(side: &'static str, records: u64, bytes: u64) {
    metrics::counter!("motience_webtransport_records_total", "side" => side).increment(records);
    metrics::counter!("motience_webtransport_bytes_total", "side" => side).increment(bytes);
}
