//! The certificate of a process, for all its listeners: which one, and reading it again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
};
use motience_certs::{ServerIdentity, Source};
use motience_runtime::{causes, clock::Clock, lifecycle::Shutdown};
use motience_settings::env::{self, Group, Reader, Setting, settings};
use tokio::time::sleep;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

/// How long browsers remember to come by HTTPS only, with a certificate of the operator's.
const HSTS_MAX_AGE: Duration = Duration::from_secs(365 * 86_400);

/// Longest time between two looks at the clock: it may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);

settings! {
    /// The certificate of every listener under TLS.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The certificate chain (PEM) of QUIC and HTTPS, and of WebSocket with WSS_TLS; read again on SIGHUP.
        TLS_CERT => chain: Option<PathBuf>;
        /// Its private key (PEM).
        TLS_KEY => key: Option<PathBuf>;
        /// Where a development CA and certificate are made, with neither of the above.
        CERTS_DIR = "certs/dev" => dir: PathBuf;
        /// How long browsers remember to come by HTTPS only; 0 tells them nothing. The default with a development certificate is 0, because
        /// it holds for the host's other ports too.
        HSTS_MAX_AGE, example "365d" => hsts: Option<Duration>;
    }
}

/// Where the certificate comes from.
pub fn source(reader: &mut Reader<'_>) -> Source {
    let Settings { chain, key, dir, .. } = reader.group();
    // A wrong half stands for the other, so that nothing more is said of it.
    let (chain, key) = match (chain, key) {
        (Some(chain), Some(key)) => (chain, key),
        (None, None) => return Source::Development { dir },
        (Some(chain), None) => {
            reader.wrong("TLS_KEY", "is missing beside TLS_CERT");
            (chain.clone(), chain)
        }
        (None, Some(key)) => {
            reader.wrong("TLS_CERT", "is missing beside TLS_KEY");
            (key.clone(), key)
        }
    };
    Source::Files { chain, key }
}

/// The settings that name a certificate.
pub fn settings(source: &Source) -> &'static str {
    if source.is_self_made() { "CERTS_DIR" } else { "TLS_CERT, TLS_KEY" }
}

/// The header that tells browsers to come by HTTPS only (RFC 6797), if any.
#[derive(Clone, Debug)]
pub struct Hsts(pub Option<HeaderValue>);

impl Group for Hsts {
    const SETTINGS: &'static [Setting] = &[];

    /// Not with a self-made certificate, unless told so: the header holds for the host's other ports too, and those of a development node
    /// are plain.
    fn read(reader: &mut Reader<'_>) -> Self {
        let Settings { chain, key, hsts, .. } = reader.group();
        let default = if chain.is_none() && key.is_none() { Duration::ZERO } else { HSTS_MAX_AGE };
        let age = hsts.unwrap_or(default).as_secs();
        Self(if age > 0 { HeaderValue::from_str(&format!("max-age={age}")).ok() } else { None })
    }
}

/// The router of a listener under TLS, with that header on every answer.
pub fn strictly(router: Router, hsts: Option<&HeaderValue>) -> Router {
    match hsts {
        Some(value) => router.layer(SetResponseHeaderLayer::overriding(header::STRICT_TRANSPORT_SECURITY, value.clone())),
        None => router,
    }
}

/// Refuses a certificate that no client of a production node would trust.
pub fn check(reader: &mut Reader<'_>, source: &Source) {
    if reader.production() && source.is_self_made() {
        let problem = "a production node does not run on a self-made certificate: name the PEM files in TLS_CERT and TLS_KEY";
        reader.wrong("TLS_CERT", problem);
    }
}

/// Problem of the certificate itself. Wrong settings of it are among `errors` already.
pub fn problem(source: &Source, errors: &[env::Error]) -> Option<String> {
    let told = errors.iter().any(|error| error.is_about(&["TLS_", "CERTS_DIR"]));
    let error = if told { None } else { source.check().err() };
    error.map(|error| format!("{}: {}", settings(source), causes(&error)))
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
