//! The certificate of a process, for all its listeners: which one, and reading it again.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
};
use motience_certs::{ServerIdentity, Source};
use motience_runtime::{causes, clock::Clock, lifecycle::Shutdown};
use motience_settings::env::{self, Env};
use tokio::time::sleep;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

/// How long browsers remember to come by HTTPS only.
const HSTS_MAX_AGE: Duration = Duration::from_secs(365 * 86_400);

/// Longest time between two looks at the clock: it may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where it comes from. TLS_CERT, TLS_KEY, CERTS_DIR.
pub fn from_env(env: &Env) -> Result<Source, env::Error> {
    Source::from_settings(env.get("TLS_CERT"), env.get("TLS_KEY"), env.get("CERTS_DIR"))
        .map_err(|half| env::Error::invalid(half.missing, format!("is missing beside {}", half.given)))
}

/// The settings that name a certificate.
pub fn settings(source: &Source) -> &'static str {
    if source.is_self_made() { "CERTS_DIR" } else { "TLS_CERT, TLS_KEY" }
}

/// The header that tells browsers to use HTTPS only (RFC 6797). HSTS_MAX_AGE, 365 d with a certificate of the operator's; zero: nothing. Not with a
/// self-made one: it holds for the host's other ports too, and those of a development node are plain.
pub fn hsts(env: &Env) -> Result<Option<HeaderValue>, env::Error> {
    let default = if from_env(env)?.is_self_made() { Duration::ZERO } else { HSTS_MAX_AGE };
    let age = env.duration("HSTS_MAX_AGE", default)?.as_secs();
    Ok(if age > 0 { HeaderValue::from_str(&format!("max-age={age}")).ok() } else { None })
}

/// The router of a listener under TLS, with that header on every answer.
pub fn strictly(router: Router, hsts: Option<&HeaderValue>) -> Router {
    match hsts {
        Some(value) => router.layer(SetResponseHeaderLayer::overriding(header::STRICT_TRANSPORT_SECURITY, value.clone())),
        None => router,
    }
}

/// Refuses what no client would trust.
pub fn check(source: &Source, production: bool) -> Result<(), env::Error> {
    if production && source.is_self_made() {
        return Err(env::Error::invalid(
            "TLS_CERT",
            "a production node does not run on a self-made certificate: name the PEM files in TLS_CERT and TLS_KEY",
        ));
    }
    Ok(())
}

/// Reads the certificate files again at each SIGHUP; a bad file leaves the old certificate in place.
pub async fn reload(identity: Arc<ServerIdentity>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.soft().cancelled() => return,
            () = shutdown.reload() => match identity.reload() {
                Ok(()) => info!("certificate reloaded"),
                Err(e) => warn!(error = %e, "cannot reload the certificate; the old one stays in use"),
            },
        }
    }
}

/// Makes the development certificate anew before it ends; one from files is its operator's.
pub async fn renew(identity: Arc<ServerIdentity>, source: Source, clock: Clock, shutdown: Shutdown) {
    shutdown.soft().run_until_cancelled(keep(&identity, &source, &clock, LOOK_EVERY)).await;
}

/// Looks at the clock at least every `look`.
async fn keep(identity: &ServerIdentity, source: &Source, clock: &Clock, look: Duration) {
    while let Some(due) = source.renewal() {
        let left = Duration::try_from(due - clock.now()).unwrap_or_default();
        if !left.is_zero() {
            sleep(left.min(look)).await;
            continue;
        }
        match source.renew(identity, clock.now()) {
            Ok(true) => info!("the development certificate was renewed"),
            Ok(false) => sleep(look).await,
            Err(e) => {
                warn!(error = %causes(&e), "cannot renew the development certificate; retrying");
                sleep(look).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use motience_certs::dev::{LEAF_LIFE, LEAF_MARGIN};
    use time::OffsetDateTime;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_development_certificate_is_renewed_when_the_clock_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::Development { dir: dir.path().into() };
        let start = OffsetDateTime::from_unix_timestamp(2_000_000_000).unwrap();
        let (clock, hand) = Clock::manual(start);
        let (identity, _) = source.load(start).unwrap();
        let shutdown = Shutdown::new();
        let keeping = {
            let (identity, shutdown) = (Arc::clone(&identity), shutdown.clone());
            async move { shutdown.soft().run_until_cancelled(keep(&identity, &source, &clock, Duration::from_millis(1))).await }
        };
        let task = tokio::spawn(keeping);
        for _ in 0..3 {
            let before = identity.hash();
            // A second later than it is due: at the very moment it still holds for as long as it has to.
            hand.advance(Duration::try_from(LEAF_LIFE - LEAF_MARGIN).unwrap() + Duration::from_secs(1));
            let renewed = async {
                while identity.hash() == before {
                    tokio::task::yield_now().await;
                }
            };
            timeout(Duration::from_secs(60), renewed).await.expect("it is due");
        }
        shutdown.begin();
        task.await.unwrap();
    }
}
