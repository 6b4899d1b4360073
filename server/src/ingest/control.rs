//! What both roles do on the control stream: token renewal, pings, and the end of the grant.

use std::time::Duration;

use bytes::BytesMut;
use motience_shared::{
    auth::Standing,
    backend::Backend,
    wire::{CloseCode, Frame, TokenAccepted, TokenRefresh},
};
use tokio::time::timeout;

use super::ending::Ending;

/// Takes a renewed token: it must be of the same account and role.
pub(super) async fn renew(backend: &Backend, standing: &Standing, refresh: &TokenRefresh, out: &mut BytesMut) -> Result<(), Ending> {
    let renewed = backend.authenticate(&refresh.token).await.map_err(|e| Ending::new(CloseCode::Unauthenticated, e.to_string()))?;
    if !standing.renew(renewed) {
        return Err(Ending::new(CloseCode::Forbidden, "the renewed token is another account's"));
    }
    Frame::TokenAccepted(TokenAccepted { expires_in: expires_in(backend, standing) }).encode(out);
    Ok(())
}

/// Whole seconds for which the grant is still good.
pub(super) fn expires_in(backend: &Backend, standing: &Standing) -> u64 {
    u64::try_from((standing.grant().expires_at - backend.clock.now()).whole_seconds()).unwrap_or(0)
}

/// The grant is over.
pub(super) fn ended() -> Ending {
    Ending::new(CloseCode::Unauthenticated, "the token has expired or was revoked")
}

/// A frame that has no place here.
pub(super) fn unexpected(frame: &Frame) -> Ending {
    Ending::new(CloseCode::Protocol, format!("{} is not expected here", frame.name()))
}

/// Writes to a peer that must take it in time.
pub(super) async fn within<T, E: Into<Ending>>(limit: Duration, write: impl Future<Output = Result<T, E>>) -> Result<T, Ending> {
    match timeout(limit, write).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => {
            metrics::counter!("motience_quic_let_go_total", "reason" => "unread").increment(1);
            Err(Ending::new(CloseCode::RateLimited, "a stream is not read"))
        }
    }
}
