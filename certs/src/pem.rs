//! PEM files: a certificate chain with its key, and sets of trusted roots.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

/// Why PEM files cannot be used. Each names its file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{path} is not a PEM file: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{path} holds no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file holds no private key.
    #[error("{path} holds no private key")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The certificate or key is of no use to TLS, or they do not belong together.
    #[error("{path} cannot be used: {source}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
}

/// Reads a chain (the server's own certificate first) and its private key (PKCS #8, SEC1 or PKCS #1).
pub fn identity(chain: &Path, key: &Path) -> Result<CertifiedKey, Error> {
    let certificates = certificates(chain)?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| match source {
        pem::Error::NoItemsFound => Error::NoKey { path: key.into() },
        source => Error::Malformed { path: key.into(), source },
    })?;
    CertifiedKey::from_der(certificates, private, &crate::provider()).map_err(|source| Error::Unusable { path: key.into(), source })
}

/// Reads every certificate of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Malformed { path: path.into(), source })?;
    if certificates.is_empty() { Err(Error::NoCertificate { path: path.into() }) } else { Ok(certificates) }
}

/// Reads the roots to trust from a file.
pub fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| Error::Unusable { path: path.into(), source })?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })
}
