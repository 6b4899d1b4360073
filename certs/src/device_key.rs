//! The key of a device: made by it, kept by it, and shown by a request for a certificate, which it signs.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey as _};

/// Kind of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032).
    #[default]
    Ed25519,
    /// ECDSA over P-256 with SHA-256: the only one that most secure elements have.
    P256,
}

impl Algorithm {
    /// The kind as settings, the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
        }
    }

    /// The kind that is spelt so.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Ed25519, Self::P256].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[error("the device's key cannot be used: {0}")]
pub struct Error(#[from] rcgen::Error);

/// A private key.
pub struct DeviceKey(KeyPair);

impl DeviceKey {
    /// A new one.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        let algorithm = match algorithm {
            Algorithm::Ed25519 => &PKCS_ED25519,
            Algorithm::P256 => &PKCS_ECDSA_P256_SHA256,
        };
        Ok(Self(KeyPair::generate_for(algorithm)?))
    }

    /// One that [`DeviceKey::pem`] wrote, or another program in PKCS #8.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// The private key, in PEM. For nobody else's eyes.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request for a certificate (RFC 2986), in PEM. Its signature proves that whoever sends it has the key.
    pub fn request(&self, device: &str) -> Result<String, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device);
        Ok(params.serialize_request(&self.0)?.pem()?)
    }

    /// Signs a message: 64 bytes for Ed25519, ASN.1 for P-256.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message)?)
    }
}

impl std::fmt::Debug for DeviceKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey")
    }
}

/// The text that a device signs to log in: nothing else that it signs begins so.
pub fn login_text(nonce: &str, credential: &str) -> String {
    format!("motience device token\n{nonce}\n{credential}")
}
