//! The listening side: an identity that can be reloaded while it serves.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use rustls::pki_types::UnixTime;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
    server::{
        ClientHello, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::pem;

/// Sessions kept for resumption, for each configuration.
const SESSIONS: usize = 8192;

/// A chain and key from two files; what [`ServerIdentity::reload`] reads is served from the next handshake on.
pub struct ServerIdentity {
    chain: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    /// Checks the certificates of clients, where they are asked for any.
    clients: OnceLock<Arc<dyn ClientCertVerifier>>,
}

/// Certificates of authorities that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Not PEM.
    #[error("an authority's certificate is not PEM")]
    Malformed(#[from] rustls::pki_types::pem::Error),
    /// No authority's.
    #[error("a certificate is no authority's")]
    Roots(#[from] rustls::Error),
    /// None at all.
    #[error("no authority's certificate can be used")]
    Verifier(#[from] VerifierBuilderError),
}

/// Authorities of an operator's own, which issue certificates of devices themselves.
#[derive(Clone, Debug)]
pub struct Issuers(Arc<dyn ClientCertVerifier>);

impl Issuers {
    /// Those with these certificates, in PEM.
    pub fn new<'p>(authorities: impl IntoIterator<Item = &'p str>) -> Result<Self, AuthorityError> {
        Ok(Self(WebPkiClientVerifier::builder_with_provider(roots(authorities)?.into(), crate::provider()).build()?))
    }

    /// Whether one of them has itself issued this certificate (DER) of a client, and it is good now.
    pub fn have_issued(&self, certificate: &[u8], now: UnixTime) -> bool {
        self.0.verify_client_cert(&CertificateDer::from(certificate), &[], now).is_ok()
    }
}

/// The certificates in these texts of PEM, each of which may hold several.
fn roots<'p>(authorities: impl IntoIterator<Item = &'p str>) -> Result<RootCertStore, AuthorityError> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate?)?;
        }
    }
    Ok(roots)
}

impl ServerIdentity {
    /// Reads the files.
    pub fn load(chain: &Path, key: &Path) -> Result<Arc<Self>, pem::Error> {
        let current = RwLock::new(Arc::new(pem::identity(chain, key)?));
        Ok(Arc::new(Self { chain: chain.into(), key: key.into(), current, clients: OnceLock::new() }))
    }

    /// Has configurations that are made from now on ask clients for a certificate of these authorities, in PEM. A client may have none; one of
    /// another authority fails the handshake. Only the first call counts.
    pub fn ask_clients<'p>(&self, authorities: impl IntoIterator<Item = &'p str>) -> Result<(), AuthorityError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(authorities)?.into(), crate::provider()).allow_unauthenticated().build()?;
        let _ = self.clients.set(verifier);
        Ok(())
    }

    /// Reads the files again. On an error what was served is served on.
    pub fn reload(&self) -> Result<(), pem::Error> {
        let fresh = Arc::new(pem::identity(&self.chain, &self.key)?);
        // The lock guards a pointer: even a poisoned one holds a whole identity.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        tracing::info!(chain = %self.chain.display(), "certificate reloaded");
        Ok(())
    }

    /// Takes what the files hold by now, if that is another certificate. Whether it was.
    pub fn refresh(&self) -> Result<bool, pem::Error> {
        let fresh = pem::identity(&self.chain, &self.key)?;
        let changed = fresh.cert != self.current().cert;
        if changed {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
        Ok(changed)
    }

    /// SHA-256 of the certificate that is served, in Base64: what browsers call a certificate's hash.
    pub fn hash(&self) -> Option<String> {
        let current = self.current();
        let leaf = current.cert.first()?;
        Some(STANDARD.encode(digest(&SHA256, leaf)))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl fmt::Debug for ServerIdentity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Whether a QUIC server takes application data in the first flight of a resumed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// Early data is accepted; requests in it must be idempotent.
    Accept,
    /// Early data is refused.
    Refuse,
}

/// For QUIC: TLS 1.3 only.
pub fn quic_config(identity: Arc<ServerIdentity>, alpns: &[&[u8]], early_data: EarlyData) -> Arc<ServerConfig> {
    let mut config = config(identity, alpns, &[&TLS13]);
    // QUIC knows these two values only (RFC 9001, section 4.6.1).
    config.max_early_data_size = if early_data == EarlyData::Accept { u32::MAX } else { 0 };
    Arc::new(config)
}

/// For TCP: TLS 1.3 and 1.2.
pub fn tcp_config(identity: Arc<ServerIdentity>, alpns: &[&[u8]]) -> Arc<ServerConfig> {
    Arc::new(config(identity, alpns, &[&TLS13, &TLS12]))
}

fn config(identity: Arc<ServerIdentity>, alpns: &[&[u8]], versions: &[&'static rustls::SupportedProtocolVersion]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(versions)
        .expect("aws-lc-rs has cipher suites for both versions");
    let builder = match identity.clients.get() {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config
}
