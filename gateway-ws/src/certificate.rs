//! The certificate of a process, for all its listeners: which one, and reading it again.

use std::sync::Arc;

use motience_certs::{ServerIdentity, Source};
use motience_shared::{
    env::{self, Env},
    lifecycle::Shutdown,
};
use tracing::{info, warn};

/// Where it comes from. TLS_CERT, TLS_KEY, CERTS_DIR.
pub fn from_env(env: &Env) -> Result<Source, env::Error> {
    Source::from_settings(env.get("TLS_CERT"), env.get("TLS_KEY"), env.get("CERTS_DIR"))
        .map_err(|half| env::Error::invalid(half.missing, format!("is missing beside {}", half.given)))
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
                Ok(()) => info!("the certificate was read again"),
                Err(e) => warn!(error = %e, "the certificate cannot be read again; the old one stays"),
            },
        }
    }
}
