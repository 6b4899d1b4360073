//! The connecting side: whom it trusts.

use std::path::PathBuf;

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    version::{TLS12, TLS13},
};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::pem;

/// Servers whose session tickets are kept, so that a reconnect resumes.
const SESSIONS: usize = 32;

/// Certificates that a client trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the operating system.
    #[default]
    Platform,
    /// Only those in this PEM file.
    Ca(PathBuf),
}

/// Why there is no client configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file is of no use.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// The CA file's certificates are no roots.
    #[error("{path} cannot serve as trusted roots: {source}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::client::VerifierBuilderError,
    },
    /// The operating system's verifier failed.
    #[error("the system's trusted certificates cannot be used: {0}")]
    Platform(#[source] rustls::Error),
}

/// For QUIC: TLS 1.3 only, early data allowed where the server's ticket allows it. Keep it: the session cache lives in it.
pub fn quic_config(trust: &Trust, alpns: &[&[u8]]) -> Result<ClientConfig, Error> {
    let mut config = config(trust, alpns, &[&TLS13])?;
    config.enable_early_data = true;
    Ok(config)
}

/// For TCP: TLS 1.3 and 1.2.
pub fn tcp_config(trust: &Trust, alpns: &[&[u8]]) -> Result<ClientConfig, Error> {
    config(trust, alpns, &[&TLS13, &TLS12])
}

/// Trusts no one: for a client of plain HTTP whose library wants a configuration all the same. A machine without any
/// trusted root can have this one.
pub fn distrusting_config() -> ClientConfig {
    ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has cipher suites for TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn config(trust: &Trust, alpns: &[&[u8]], versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(versions)
        .expect("aws-lc-rs has cipher suites for both versions");
    let builder = match trust {
        Trust::Platform => builder.with_platform_verifier().map_err(Error::Platform)?,
        Trust::Ca(path) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(pem::roots(path)?.into(), crate::provider())
                .build()
                .map_err(|source| Error::Roots { path: path.clone(), source })?;
            builder.with_webpki_verifier(verifier)
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}
