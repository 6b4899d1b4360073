//! Where a server's certificate comes from: files of its operator, or made here for development.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use time::OffsetDateTime;

use crate::{ServerIdentity, dev, pem};

/// Where the certificate of every listener of a process comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM files, read again on SIGHUP. TLS_CERT and TLS_KEY.
    Files {
        /// The chain, leaf first.
        chain: PathBuf,
        /// The leaf's private key.
        key: PathBuf,
    },
    /// Made on first run, with a CA that clients can be told to trust. CERTS_DIR, `certs/dev`.
    Development {
        /// Where they are kept.
        dir: PathBuf,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The development certificates.
    #[error("development certificates cannot be made")]
    Development(#[from] dev::Error),
    /// The certificate files.
    #[error("it cannot be loaded")]
    Files(#[from] pem::Error),
}

impl Source {
    /// Whether nobody but this machine has reason to trust it.
    pub fn is_self_made(&self) -> bool {
        matches!(self, Self::Development { .. })
    }

    /// Loads the certificate, made first where it is this machine's own; and with it the CA to trust then.
    pub fn load(&self, now: OffsetDateTime) -> Result<(Arc<ServerIdentity>, Option<PathBuf>), Error> {
        match self {
            Self::Files { chain, key } => Ok((ServerIdentity::load(chain, key)?, None)),
            Self::Development { dir } => {
                let made = dev::ensure(dir, now)?;
                tracing::info!(ca = %made.ca.display(), "using a self-made certificate; clients trust its CA by --ca");
                Ok((ServerIdentity::load(&made.chain, &made.key)?, Some(absolute(&made.ca))))
            }
        }
    }

    /// Whether its files can be used; what is made here is not made for that.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Self::Files { chain, key } => Ok(ServerIdentity::load(chain, key).map(drop)?),
            Self::Development { .. } => Ok(()),
        }
    }

    /// When the certificate has to be made anew; `None` where that is its operator's business.
    pub fn renewal(&self) -> Option<OffsetDateTime> {
        match self {
            Self::Files { .. } => None,
            Self::Development { dir } => dev::renewal(dir),
        }
    }

    /// Makes anew what nears its end, and serves it from the next handshake on. Whether there was need.
    pub fn renew(&self, identity: &ServerIdentity, now: OffsetDateTime) -> Result<bool, Error> {
        let Self::Development { dir } = self else { return Ok(false) };
        dev::ensure(dir, now)?;
        Ok(identity.refresh()?)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}
