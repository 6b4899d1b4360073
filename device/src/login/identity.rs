//! A device's identity: the key that it made, and what the server said of it at enrolment. Two files beside the outbox: `NAME.key` holds the
//! key and nothing else, `NAME.json` the rest, its certificate among it.
//!
//! Another identity in its place comes to be beside it: `NAME.new.key` before anybody hears of that key, `NAME.new.json` once the server has
//! certified it. From then on it is the device's, and both files take the places of those before: a crash on the way loses neither.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use motience_certs::device_key::{Algorithm, DeviceKey};
use motience_proto::model::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Auth, Error};
use crate::private_file;

/// A certificate and whose it is, as the server answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The producer of the device.
    pub producer_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// Names the key to the server.
    pub credential: String,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The authority that signed it, in PEM.
    #[serde(rename = "ca")]
    pub authority: String,
    /// When the certificate ends.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// When to renew it.
    #[serde(with = "time::serde::rfc3339")]
    pub renew_at: OffsetDateTime,
}

/// Where the device has enrolled: it comes back there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The authentication service.
    pub auth_url: String,
    /// The ingest server, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_url: Option<String>,
    /// A file of certificates that it trusts, instead of the system's.
    #[serde(rename = "ca_file", default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// A device that is enrolled.
pub struct Identity {
    place: PathBuf,
    key: DeviceKey,
    /// The certificate, and whose it is.
    pub certificate: Certificate,
    /// Where it enrolled.
    pub home: Home,
}

/// Content of `NAME.json`.
#[derive(Serialize, Deserialize)]
struct Kept<C, H> {
    #[serde(flatten)]
    certificate: C,
    #[serde(flatten)]
    home: H,
}

/// An enrolment that is to be made. Nothing prints it, for the token is a secret.
pub struct Enrolment<'e> {
    /// The enrolment token that the producer made.
    pub token: &'e str,
    /// The device, where the token names none.
    pub named: Option<&'e DeviceId>,
    /// The kind of key to make.
    pub algorithm: Algorithm,
    /// Servers that the device will connect to.
    pub home: Home,
}

impl Identity {
    /// The identity that is kept at `place` (without an ending); `None` where there is none.
    pub fn read(place: &Path) -> Result<Option<Self>, Error> {
        settle(place)?;
        let text = match fs::read(json(place)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&json(place), error)),
        };
        let kept: Kept<Certificate, Home> = serde_json::from_slice(&text).map_err(|error| unusable(&json(place), error))?;
        let key = read_key(place)?.ok_or_else(|| unusable(&key_file(place), "it is missing"))?;
        Ok(Some(Self { place: place.into(), key, certificate: kept.certificate, home: kept.home }))
    }

    /// Enrols this device by a token. The key is kept before anybody hears of it: where the answer is lost, the same call finds out what
    /// became of it.
    pub async fn enrol(auth: &Auth, place: &Path, Enrolment { token, named, algorithm, home }: Enrolment<'_>) -> Result<Self, Error> {
        let key = match read_key(place)? {
            Some(key) => key,
            None => {
                let key = DeviceKey::generate(algorithm).map_err(|error| Error::Config(error.to_string()))?;
                let path = key_file(place);
                private_file::write_durably(&path, key.pem().as_bytes()).map_err(|error| unusable(&path, error))?;
                key
            }
        };
        let request = request(&key, named.map_or("device", DeviceId::as_str))?;
        let certificate = match auth.enrol(token, &request, named).await {
            // Spent, or used, by an earlier call whose answer was lost: the key is known then.
            Err(refused @ Error::Refused { .. }) => auth.renew_certificate(&request).await.map_err(|_| refused)?,
            answer => answer?,
        };
        let identity = Self { place: place.into(), key, certificate, home };
        identity.write()?;
        Ok(identity)
    }

    /// Enrols this device with another key, as [`Identity::enrol`] does. The identity that is kept at `place` stays as it is until the server has
    /// certified the new one.
    pub async fn enrol_anew(auth: &Auth, place: &Path, enrolment: Enrolment<'_>) -> Result<Self, Error> {
        Self::enrol(auth, &beside(place), enrolment).await?;
        Self::read(place)?.ok_or_else(|| unusable(&json(place), "it is missing"))
    }

    /// Whether the certificate is due: two thirds of its life are over.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        now >= self.certificate.renew_at
    }

    /// Gets the next certificate for the same key, be this one ended or not.
    pub async fn renew(&mut self, auth: &Auth) -> Result<(), Error> {
        self.certificate = auth.renew_certificate(&request(&self.key, self.certificate.device_id.as_str())?).await?;
        self.write()
    }

    /// Signs a text.
    pub(super) fn sign(&self, text: &str) -> Result<Vec<u8>, Error> {
        self.key.sign(text.as_bytes()).map_err(|error| Error::Config(error.to_string()))
    }

    fn write(&self) -> Result<(), Error> {
        let path = json(&self.place);
        let text = serde_json::to_vec_pretty(&Kept { certificate: &self.certificate, home: &self.home });
        text.map_err(io::Error::from).and_then(|text| private_file::write_durably(&path, &text)).map_err(|error| unusable(&path, error))
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("place", &self.place).field("device", &self.certificate.device_id).finish_non_exhaustive()
    }
}

fn request(key: &DeviceKey, device: &str) -> Result<String, Error> {
    key.request(device).map_err(|error| Error::Config(error.to_string()))
}

fn read_key(place: &Path) -> Result<Option<DeviceKey>, Error> {
    let path = key_file(place);
    let pem = match fs::read_to_string(&path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(&path, error)),
    };
    private_file::close_to_others(&path).map_err(|error| unusable(&path, error))?;
    DeviceKey::from_pem(&pem).map(Some).map_err(|error| unusable(&path, error))
}

/// Has an identity that came to be beside this place take it, if there is one. Its second file says that it is whole.
fn settle(place: &Path) -> Result<(), Error> {
    let new = beside(place);
    if !json(&new).exists() {
        return Ok(());
    }
    for (from, to) in [(key_file(&new), key_file(place)), (json(&new), json(place))] {
        match fs::rename(&from, &to) {
            // The key was moved before a crash.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(&to, error)),
            _ => {}
        }
    }
    Ok(())
}

fn beside(place: &Path) -> PathBuf {
    with_ending(place, ".new")
}

fn json(place: &Path) -> PathBuf {
    with_ending(place, ".json")
}

fn key_file(place: &Path) -> PathBuf {
    with_ending(place, ".key")
}

fn with_ending(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    place.with_file_name(name)
}

fn unusable(path: &Path, error: impl fmt::Display) -> Error {
    Error::Config(format!("{} cannot be used: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    #[test]
    fn it_is_read_back_and_is_due_after_two_thirds() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("new/identity");
        assert!(Identity::read(&place).unwrap().is_none());
        let from = datetime!(2026-01-01 00:00 UTC);
        let certificate = Certificate {
            producer_id: UserId(7),
            device_id: DeviceId::new("pi-1").unwrap(),
            credential: "c".into(),
            certificate: "PEM".into(),
            authority: "CA".into(),
            not_after: from + Duration::days(9),
            renew_at: from + Duration::days(6),
        };
        let key = DeviceKey::generate(Algorithm::P256).unwrap();
        let home = Home { auth_url: "https://h".into(), server_url: None, ca: Some("/ca.pem".into()) };
        let identity = Identity { place: place.clone(), key, certificate, home: home.clone() };
        private_file::write(&key_file(&place), identity.key.pem().as_bytes()).unwrap();
        identity.write().unwrap();
        let read = Identity::read(&place).unwrap().unwrap();
        assert_eq!((&read.home, read.key.pem(), read.certificate.authority.as_str()), (&home, identity.key.pem(), "CA"));
        assert!(!read.is_due(from + Duration::days(6) - Duration::SECOND) && read.is_due(from + Duration::days(6)));
        assert!(!format!("{read:?}").contains("PRIVATE"));

        // Another one beside it, which is whole once its second file is there; and a crash between the two moves.
        let next = DeviceKey::generate(Algorithm::P256).unwrap();
        private_file::write(&key_file(&beside(&place)), next.pem().as_bytes()).unwrap();
        assert_eq!(Identity::read(&place).unwrap().unwrap().key.pem(), identity.key.pem());
        let whole = Identity { place: beside(&place), certificate: Certificate { credential: "n".into(), ..read.certificate }, ..read };
        for moved in [false, true] {
            whole.write().unwrap();
            if moved {
                assert!(!key_file(&whole.place).exists());
            }
            let read = Identity::read(&place).unwrap().unwrap();
            assert_eq!((read.key.pem(), read.certificate.credential.as_str()), (next.pem(), "n"));
            assert!(!json(&whole.place).exists());
        }
    }
}
