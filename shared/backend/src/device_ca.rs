//! The certification authority of the installation's devices: brought by the operator, or made at the first start and kept in the store,
//! its key under the seal of the secret that signs tokens. So nodes that share that secret share it.
//!
//! With another secret there is another authority. Certificates of the one before stay good, and their devices get the next ones from the new one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use motience_auth as auth;
use motience_certs::{
    device_ca::{self, DeviceCa, secret_id},
    server::{AuthorityError, Issuers},
};
use motience_store::{Store, StoredDeviceCa};
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;
use tracing::warn;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path} ({setting})")]
    Read {
        /// The file.
        path: PathBuf,
        /// The setting that names it.
        setting: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The operator's certificate or key cannot be used.
    #[error("{path} cannot sign certificates of devices (DEVICE_CA_CERT, DEVICE_CA_KEY)")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// The cause.
        source: device_ca::Error,
    },
    /// The operator's certificates cannot be used.
    #[error("{path} has no certificates of authorities (DEVICE_CA_ISSUERS)")]
    Issuers {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: AuthorityError,
    },
    /// None can be made.
    #[error(transparent)]
    Make(#[from] device_ca::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] motience_store::Error),
}

/// The authority that signs, and all whose certificates are good.
#[derive(Debug)]
pub struct Authority {
    /// Signs new certificates.
    pub signs: DeviceCa,
    /// Certificates in PEM of all that are trusted, the one that signs among them.
    pub trusted: Vec<String>,
    /// Those that issue certificates themselves, if there are any.
    pub issuers: Option<Issuers>,
}

impl Authority {
    /// The operator's own.
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let read = |path: &Path, setting| fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), setting, source });
        let (chain, key) = (read(certificate, "DEVICE_CA_CERT")?, read(key, "DEVICE_CA_KEY")?);
        let signs = DeviceCa::load(&chain, &key).map_err(|source| Error::Unusable { path: certificate.into(), source })?;
        Ok(Self { signs, trusted: vec![chain], issuers: None })
    }

    /// The installation's, made where there is none under this secret. One that is made up at each start keeps nothing in the store.
    pub(super) async fn of_installation(store: &Store, auth: &auth::Config, now: OffsetDateTime) -> Result<Self, Error> {
        let secret = auth.secret.expose_secret().as_bytes();
        if auth.generated {
            let signs = DeviceCa::generate(now)?;
            return Ok(Self { trusted: vec![signs.certificate().to_owned()], signs, issuers: None });
        }
        let id = secret_id(secret);
        let mut all = store.device_cas().await?;
        if !all.iter().any(|ca| ca.secret == id) {
            let made = DeviceCa::generate(now)?;
            let kept =
                StoredDeviceCa { secret: id.clone(), certificate: made.certificate().to_owned(), sealed_key: made.sealed_key(secret)? };
            // Of several nodes that start at once one keeps it, and all read that one.
            store.keep_device_ca(&kept, now).await?;
            all = store.device_cas().await?;
        }
        if all.len() > 1 {
            warn!(authorities = all.len(), "devices have certificates from under another JWT_SECRET too; those stay good until they end");
        }
        let own = all.iter().find(|ca| ca.secret == id).ok_or(Error::Make(device_ca::Error::Sealed))?;
        let signs = DeviceCa::open(&own.certificate, &own.sealed_key, secret)?;
        Ok(Self { signs, trusted: all.into_iter().map(|ca| ca.certificate).collect(), issuers: None })
    }

    /// Trusts authorities that issue certificates outside of enrolment too, in a file of PEM.
    pub(super) fn with_issuers(mut self, path: &Path) -> Result<Self, Error> {
        let (issuers, pem) = read_issuers(path)?;
        self.trusted.push(pem);
        Ok(Self { issuers: Some(issuers), ..self })
    }
}

/// The authorities in a file of PEM, and its text.
pub(super) fn read_issuers(path: &Path) -> Result<(Issuers, String), Error> {
    let setting = "DEVICE_CA_ISSUERS";
    let pem = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), setting, source })?;
    let issuers = Issuers::new([pem.as_str()]).map_err(|source| Error::Issuers { path: path.into(), source })?;
    Ok((issuers, pem))
}
