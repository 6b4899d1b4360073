//! Keys that sign tokens in place of JWT_SECRET: a folder of them, each named by the time from which it signs.
//!
//! A key is read, published and believed before it signs, so that every node knows it by then. One that signs no more is believed for as long
//! as its file is there. So a key is replaced without ending anybody's session.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use parking_lot::RwLock;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;
use time::{OffsetDateTime, PrimitiveDateTime, format_description::FormatItem, macros::format_description};

use super::secrets::sha256;

/// The name of a key's file, without `.pem`: the time from which it signs, in UTC.
const NAME: &[FormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// Longest file of a key, in bytes.
const MAX_FILE: u64 = 16 * 1024;

/// The keys of a folder. Cheap to clone; all clones see a new reading.
#[derive(Clone, Debug, Default)]
pub(super) struct SigningKeys(Arc<RwLock<Vec<Arc<SigningKey>>>>);

/// One key.
pub(super) struct SigningKey {
    /// Its name in tokens: the thumbprint of its public half (RFC 7638).
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
    from: OffsetDateTime,
    public: PublicKey,
}

/// The public half of a key that signs tokens, as a JSON Web Key (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicKey {
    kty: &'static str,
    crv: &'static str,
    x: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    kid: String,
}

/// Why the keys of a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    /// The folder or a file cannot be read.
    #[error("JWT_KEYS: {} cannot be read: {cause}", path.display())]
    Read {
        /// The folder or the file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The name of a file is no time.
    #[error("JWT_KEYS: {} must be named by the time from which it signs, such as 20300131T120000Z.pem", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no key that can sign.
    #[error("JWT_KEYS: {} is no private key in PKCS #8 of Ed25519 or P-256", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
}

/// A file with a key, as its name tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Where it is.
    pub path: PathBuf,
    /// From when on it signs, until the next one does.
    pub from: OffsetDateTime,
}

/// The files of keys in a folder, by time.
pub fn key_files(folder: &Path) -> Result<Vec<KeyFile>, SigningKeyError> {
    let failed = |cause| SigningKeyError::Read { path: folder.into(), cause };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "pem") {
            continue;
        }
        let time = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| PrimitiveDateTime::parse(stem, NAME).ok());
        let Some(from) = time.map(PrimitiveDateTime::assume_utc) else { return Err(SigningKeyError::Name { path }) };
        files.push(KeyFile { path, from });
    }
    files.sort_by_key(|file| file.from);
    Ok(files)
}

/// The file of a key that signs from this second on.
pub fn key_file(folder: &Path, from: OffsetDateTime) -> Result<KeyFile, time::error::Format> {
    let from = from.replace_nanosecond(0).unwrap_or(from);
    Ok(KeyFile { path: folder.join(format!("{}.pem", from.format(NAME)?)), from })
}

/// Files of these, in order of time, whose keys nobody needs any more: the next key has signed for longer than the longest token lives.
pub fn spent_key_files(files: &[KeyFile], longest: Duration, now: OffsetDateTime) -> Vec<&KeyFile> {
    files.windows(2).filter(|pair| pair[1].from + longest < now).map(|pair| &pair[0]).collect()
}

impl SigningKeys {
    /// Reads a folder; keys that were read before give way to those that are there now.
    pub(super) fn read(&self, folder: &Path) -> Result<(), SigningKeyError> {
        let keys = key_files(folder)?.into_iter().map(|file| SigningKey::read(file).map(Arc::new)).collect::<Result<_, _>>()?;
        *self.0.write() = keys;
        Ok(())
    }

    /// The key that signs now: the newest of those whose time has come.
    pub(super) fn signing(&self, now: OffsetDateTime) -> Option<Arc<SigningKey>> {
        self.0.read().iter().rev().find(|key| key.from <= now).cloned()
    }

    /// The key with this id.
    pub(super) fn find(&self, id: &str) -> Option<Arc<SigningKey>> {
        self.0.read().iter().find(|key| key.id == id).cloned()
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.read().is_empty()
    }

    /// The public halves of all, those that do not sign yet among them.
    pub(super) fn public(&self) -> Vec<PublicKey> {
        self.0.read().iter().map(|key| key.public.clone()).collect()
    }
}

impl SigningKey {
    fn read(KeyFile { path, from }: KeyFile) -> Result<Self, SigningKeyError> {
        let read = || {
            let length = fs::metadata(&path)?.len();
            if length > MAX_FILE { Err(io::Error::other("the file is too long")) } else { fs::read(&path) }
        };
        let text = match read() {
            Ok(text) => text,
            Err(cause) => return Err(SigningKeyError::Read { path, cause }),
        };
        PrivatePkcs8KeyDer::from_pem_slice(&text)
            .ok()
            .and_then(|der| Self::of(der.secret_pkcs8_der(), from))
            .ok_or(SigningKeyError::Key { path })
    }

    /// The key in PKCS #8; `None` where it is of another kind.
    fn of(der: &[u8], from: OffsetDateTime) -> Option<Self> {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (algorithm, encoding, [kty, crv, alg], x, y) = if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            (Algorithm::EdDSA, EncodingKey::from_ed_der(der), ["OKP", "Ed25519", "EdDSA"], encode(pair.public_key().as_ref()), None)
        } else {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok()?;
            // One byte that says the point is not compressed, then its two coordinates.
            let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(32)?;
            (Algorithm::ES256, EncodingKey::from_ec_der(der), ["EC", "P-256", "ES256"], encode(x), Some(encode(y)))
        };
        // The members that every such key has, in order of their names (RFC 7638, section 3.2).
        let last = y.as_ref().map_or_else(String::new, |y| format!(r#","y":"{y}""#));
        let id = encode(&sha256(format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}"{last}}}"#).as_bytes()));
        let decoding = match &y {
            None => DecodingKey::from_ed_components(&x),
            Some(y) => DecodingKey::from_ec_components(&x, y),
        };
        let public = PublicKey { kty, crv, x, y, alg, usage: "sig", kid: id.clone() };
        Some(Self { id, algorithm, encoding, decoding: decoding.ok()?, from, public })
    }
}

impl std::fmt::Debug for SigningKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).field("from", &self.from).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A.1 to A.3: a key, and the thumbprint of its public half.
    const ED25519: &str =
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(key_file(dir.path(), at(0)).unwrap().path, ED25519).unwrap();
        let keys = SigningKeys::default();
        keys.read(dir.path()).unwrap();
        let public = keys.public();
        assert_eq!((public[0].kid.as_str(), public[0].x.as_str()), (THUMBPRINT, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
        assert!(keys.find(THUMBPRINT).is_some() && keys.find("another").is_none());
        assert!(!format!("{keys:?}").contains("nWGx"));
    }

    #[test]
    fn the_newest_key_whose_time_has_come_signs() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SigningKeys::default();
        keys.read(dir.path()).unwrap();
        assert!(keys.are_none() && keys.signing(at(1000)).is_none());
        for from in [100, 200] {
            let pem = motience_certs::device_key::DeviceKey::generate(motience_certs::device_key::Algorithm::P256).unwrap().pem();
            fs::write(key_file(dir.path(), at(from)).unwrap().path, pem).unwrap();
        }
        fs::write(dir.path().join("README"), "no key").unwrap();
        keys.read(dir.path()).unwrap();
        let signs = |now| keys.signing(at(now)).map(|key| key.from.unix_timestamp());
        assert_eq!([99, 100, 199, 200, 1000].map(signs), [None, Some(100), Some(100), Some(200), Some(200)]);
        let files = key_files(dir.path()).unwrap();
        let spent = |now| spent_key_files(&files, Duration::from_secs(50), at(now)).len();
        assert_eq!([199, 250, 251].map(spent), [0, 0, 1], "tokens of the first live for 50 s after it has signed the last");
        for (name, text, word) in
            [("today.pem", ED25519, "named by the time"), ("20300131T120000Z.pem", "hunter2", "no private key"), ("x", "", "")]
        {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            let outcome = keys.read(dir.path());
            assert_eq!(outcome.is_err(), !word.is_empty(), "{name}");
            let said = outcome.map_or_else(|e| e.to_string(), |()| String::new());
            assert!(said.contains(word) && !said.contains("hunter2"), "{said}");
            fs::remove_file(path).unwrap();
            assert_eq!(keys.public().len(), 2, "the former stay");
        }
    }
}
