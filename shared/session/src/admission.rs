//! Who may have a session, and for how long: the Hello of motience/1, access tokens, and their renewal.

use std::sync::Arc;

use motience_auth::{self as auth, Client, Grant, Standing};
use motience_backend::Backend;
use motience_http::{count_ended, session_refused};
use motience_limits::{
    permits::{ClientAddress, Permit, Share},
    rate::Bucket,
};
use motience_proto::{
    model::{DeviceId, Role, Transport},
    wire::{CloseCode, Frame, Hello, Intent, TokenAccepted, TokenRefresh, VERSION},
};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info, warn};

use super::CloseReason;

/// A peer of motience/1 that may come in.
pub struct Admitted {
    /// The device, or a consumer's name for itself.
    pub device: DeviceId,
    /// The right to be there.
    pub standing: Arc<Standing>,
}

/// The Hello that a connection's first frame must be.
pub fn hello(first: Frame) -> Result<Hello, CloseReason> {
    match first {
        Frame::Hello(hello) => Ok(hello),
        other => Err(CloseReason::protocol(format!("{} before Hello", other.name()))),
    }
}

/// Decides about a Hello: version, token, role, device, and the account's limit of connections. `certificate`: shown by the client in its
/// handshake, in DER; it stands for a token where Hello has none.
pub async fn admit(
    hello: &Hello,
    certificate: Option<&[u8]>,
    permit: &mut Permit,
    backend: &Backend,
    draining: &CancellationToken,
) -> Result<Admitted, CloseReason> {
    if hello.version != VERSION {
        return Err(CloseReason::protocol(format!("version {} is not spoken here", hello.version)));
    }
    if draining.is_cancelled() {
        return Err(CloseReason::Draining);
    }
    let grant = match certificate.filter(|_| hello.token.is_empty()) {
        Some(certificate) => backend.authenticate_certificate(certificate).await.map_err(unauthenticated)?,
        None => authenticate(backend, &hello.token).await?,
    };
    let (allowed, share) = match hello.intent {
        Intent::Produce => (backend.may_publish(&grant), Share::Devices),
        Intent::Consume => (grant.may_follow(), Share::Connections),
    };
    allowed?;
    let device = DeviceId::new(&hello.device_id).map_err(|e| CloseReason::protocol(e.to_string()))?;
    if hello.intent == Intent::Produce && backend.devices.is_revoked(grant.user.producer(), device.as_str()) {
        return Err(device_revoked());
    }
    if hello.intent == Intent::Produce && grant.only_device().is_some_and(|own| own != device.as_str()) {
        return Err(CloseReason::forbidden("wrong_device: this account speaks for the device it was registered with only"));
    }
    permit.identify(grant.user, share)?;
    Span::current().record("user", tracing::field::display(grant.user));
    info!(user = %grant.user, %device, intent = ?hello.intent, transport = permit.transport().as_str(), "device connected");
    let client = Client { transport: permit.transport(), address: permit.address(), device: Some(device.to_string()) };
    Ok(Admitted { device, standing: Arc::new(backend.standing(grant, client)) })
}

/// The device of a session was revoked.
pub(super) fn device_revoked() -> CloseReason {
    CloseReason::forbidden("device_revoked: this device was revoked")
}

/// Who holds this access token or key.
pub async fn authenticate(backend: &Backend, token: &str) -> Result<Grant, CloseReason> {
    backend.authenticate(token).await.map_err(unauthenticated)
}

fn unauthenticated(error: auth::Error) -> CloseReason {
    match error {
        auth::Error::Unavailable | auth::Error::IssuerAway => CloseReason::Unavailable,
        auth::Error::NoRole => CloseReason::forbidden(format!("{}: {error}", error.code())),
        error => CloseReason::Unauthenticated(error.to_string().into()),
    }
}

/// Takes a renewed token, which must be of the same account and role. Returns the whole seconds for which it is good.
pub(super) async fn renew(backend: &Backend, standing: &Standing, token: &str) -> Result<u64, CloseReason> {
    let renewed = authenticate(backend, token).await?;
    if renewed.role == Role::Producer {
        backend.may_publish(&renewed)?;
    }
    standing.renew(renewed).map_err(|e| CloseReason::forbidden(e.to_string()))?;
    Ok(standing.expires_in())
}

/// Takes the renewed token of a frame. Returns the frame that answers it.
pub(super) async fn refreshed(backend: &Backend, standing: &Standing, refresh: &TokenRefresh) -> Result<Frame, CloseReason> {
    let expires_in = renew(backend, standing, &refresh.token).await?;
    Ok(Frame::TokenAccepted(TokenAccepted { expires_in }))
}

/// Takes what a request costs out of the ration of its connection (RATE_LIMIT_CONTROL). One that asks for more is closed.
pub fn ration(pace: &mut Bucket, cost: u32) -> Result<(), CloseReason> {
    pace.take(cost).map_err(|_| {
        metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
        CloseReason::TooManyRequests
    })
}

/// Runs a session for as long as its token is good. The token's end comes before everything that the session does or waits for, a
/// write that its peer does not take among it.
pub fn while_authorized<T>(
    standing: &Standing,
    session: impl Future<Output = Result<T, CloseReason>>,
) -> impl Future<Output = Result<T, CloseReason>> {
    // A future takes room twice in each that waits for it, and an idle connection would cost several times its session.
    let mut session = Box::pin(session);
    async move {
        tokio::select! {
            biased;
            () = standing.over() => Err(standing.into()),
            ended = &mut session => ended,
        }
    }
}

/// Counts the end of a session by its reason.
pub fn count_end(reason: &CloseReason, transport: Transport) {
    metrics::counter!("motience_sessions_ended_total", "transport" => transport.as_str(), "reason" => reason.name()).increment(1);
}

/// Logs how a session ended, and counts it. Call it before the peer is told.
pub fn report_end(reason: &CloseReason, transport: Transport, client: ClientAddress, permit: &Permit) {
    count_end(reason, transport);
    if let Some(fault) = reason.fault() {
        count_ended(fault);
    }
    if let (Some(code), false) = (reason.code(), permit.is_identified()) {
        session_refused(transport, code.name(), client, &reason.to_string());
    }
    if matches!(reason, CloseReason::Internal(_) | CloseReason::Unavailable) {
        warn!(%reason, "connection closed");
    } else {
        debug!(%reason, code = reason.code().map(CloseCode::name), "connection closed");
    }
}
