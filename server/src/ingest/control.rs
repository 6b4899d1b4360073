//! What both roles do on the control stream: token renewal, pings, and the end of the grant.

use std::time::Duration;

use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    backend::Backend,
    wire::{CloseCode, Frame, TokenAccepted, TokenRefresh},
};

use super::connection::Ending;

/// Longest time a peer may leave the control stream unread before it counts as gone.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Takes a renewed token: it must be of the same account and role.
pub(super) fn renew(backend: &Backend, grant: &mut Grant, refresh: &TokenRefresh, out: &mut BytesMut) -> Result<(), Ending> {
    let renewed = backend.authenticate(&refresh.token).map_err(|e| Ending::new(CloseCode::Unauthenticated, e.to_string()))?;
    if renewed.user != grant.user || renewed.role != grant.role {
        return Err(Ending::new(CloseCode::Forbidden, "the renewed token is another account's"));
    }
    *grant = renewed;
    Frame::TokenAccepted(TokenAccepted { expires_in: expires_in(backend, grant) }).encode(out);
    Ok(())
}

/// Whole seconds for which the grant is still good.
pub(super) fn expires_in(backend: &Backend, grant: &Grant) -> u64 {
    u64::try_from((grant.expires_at - backend.clock.now()).whole_seconds()).unwrap_or(0)
}

/// The grant is over.
pub(super) fn ended() -> Ending {
    Ending::new(CloseCode::Unauthenticated, "the token has expired or was revoked")
}

/// A frame that has no place here.
pub(super) fn unexpected(frame: &Frame) -> Ending {
    Ending::new(CloseCode::Protocol, format!("{} is not expected here", frame.name()))
}
