//! Devices as subjects: how one enrols, renews its certificate, logs in by its key, and is quarantined or revoked.
//!
//! ```text
//! enrolment token + request signed by the new key -> credential, certificate
//! request signed by that key                      -> the next certificate, also long after the last one has ended
//! nonce signed by that key                        -> access token of that device, good on every transport
//! ```

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use motience_auth::{self as auth, Denied, Grant, device_family, random_id, secret_hash};
use motience_certs::{
    ServerIdentity,
    device_ca::{self, Requested, Shown, Subject, is_signed, serial},
    device_key::{Algorithm, login_text},
    server::{AuthorityError, Issuers, UnixTime},
};
use motience_cluster::Event;
use motience_proto::model::{DeviceId, DeviceState, ProducerId, Role, User, UserId};
use motience_settings::env::{self, Reader, one_of, settings};
use motience_store::{self as store, Credential, Device, Enrolment, EnrolmentToken, Labels, NewCredential};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tracing::{info, warn};

use super::Backend;

/// Enrolment tokens begin so, for people and for programs that look for secrets.
const TOKEN_PREFIX: &str = "mte_";
/// How long a device that comes by a certificate of somebody else's has, to be registered.
const ADOPTION: Duration = Duration::from_secs(60);
/// Longest number of a certificate that is kept, in hexadecimal digits: the width of its column.
const MAX_SERIAL: usize = 64;
/// The part of a certificate's life after which a device renews it.
pub const RENEW_AT: f64 = 2.0 / 3.0;

settings! {
    /// Settings of devices that have keys of their own.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// The certificate (PEM) of an authority of your own, which signs the devices' certificates. If unset, one is made at the first start
        /// and kept in the database, its key sealed under JWT_SECRET.
        DEVICE_CA_CERT => ca_certificate: Option<PathBuf>;
        /// Its private key (PEM).
        DEVICE_CA_KEY => ca_key: Option<PathBuf>;
        /// Certificates (PEM) of authorities of your own that issue devices' certificates themselves, outside of enrolment. A device that shows one
        /// is registered at first sight; the certificate's only URI names it: `urn:motience:device:PRODUCER:DEVICE`. Needs DEVICE_CERTIFICATES.
        DEVICE_CA_ISSUERS => issuers: Option<PathBuf>;
        /// How long a device's certificate is good. A device renews it after two thirds of that, and by its key even later.
        DEVICE_CERTIFICATE_LIFE = "7d" => certificate_life: Duration, "1m"..="3650d";
        /// Whether QUIC, HTTPS and the tunnel ask clients for a device's certificate, by which a device is known without a token. A client
        /// that has none goes on as before.
        DEVICE_CERTIFICATES = "false" => certificates: bool;
        /// Whether a login by password gives the right to publish: `allow`, or `deny`: then only a device's own key does, or an API key.
        DEVICE_PASSWORDS = "allow" => passwords: Passwords;
        /// Devices of one account that the database remembers: those that enrolled, or that somebody revoked or put in quarantine.
        MAX_REGISTERED_DEVICES_PER_ACCOUNT = "100000" => most: u32, > 0;
    }
}

/// Whether passwords give the right to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passwords {
    /// They do.
    Allow,
    /// They do not.
    Deny,
}

impl env::Value for Passwords {
    fn parse(text: &str) -> Result<Self, String> {
        one_of(text, &[("allow", Self::Allow), ("deny", Self::Deny)])
    }
}

/// Settings of devices, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Certificate and key of the operator's own authority.
    pub ca: Option<(PathBuf, PathBuf)>,
    /// Certificates of authorities that issue certificates outside of enrolment.
    pub issuers: Option<PathBuf>,
    /// How long a certificate is good.
    pub certificate_life: Duration,
    /// Whether clients are asked for a device's certificate.
    pub certificates: bool,
    /// Whether passwords give the right to publish.
    pub passwords: Passwords,
    /// Most devices of one account that are remembered.
    pub most: u32,
}

impl Config {
    /// Reads the settings.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let Settings { ca_certificate, ca_key, issuers, certificate_life, certificates, passwords, most } = reader.group();
        let ca = match (ca_certificate, ca_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                reader.wrong("DEVICE_CA_KEY", "is missing beside DEVICE_CA_CERT");
                None
            }
            (None, Some(_)) => {
                reader.wrong("DEVICE_CA_CERT", "is missing beside DEVICE_CA_KEY");
                None
            }
        };
        if issuers.is_some() && !certificates {
            reader.wrong("DEVICE_CA_ISSUERS", "needs DEVICE_CERTIFICATES=true: clients are asked for no certificate otherwise");
        }
        Self { ca, issuers, certificate_life, certificates, passwords, most }
    }
}

/// Why a device does not get what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The enrolment token is unknown, spent or expired.
    #[error("the enrolment token is unknown, spent or expired")]
    Enrolment,
    /// Nobody said which device it is.
    #[error("the enrolment token names no device: say device_id")]
    Nameless,
    /// There is such a device already.
    #[error("there is a device of this name: ask for an enrolment token that names it")]
    Exists,
    /// The key is some device's, or was.
    #[error("this key was enrolled before: make a new one")]
    KeyKnown,
    /// The request, the nonce or the signature proves nothing.
    #[error("{0}")]
    Proof(&'static str),
    /// The key is no device's, or no longer.
    #[error("this key is no device's, or no longer")]
    Unknown,
    /// The device was revoked.
    #[error("this device was revoked")]
    Revoked,
    /// The certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] device_ca::Error),
    /// A token cannot be made.
    #[error(transparent)]
    Token(#[from] auth::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The answer to a nonce that is not ours, or was used, or has ended.
const STALE: Refused = Refused::Proof("the nonce is not good, or no longer: ask for another");

/// A device with a certificate.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Producer of the device.
    pub producer: ProducerId,
    /// Its name.
    pub device: String,
    /// The credential's id.
    pub credential: String,
    /// Kind of its key.
    pub algorithm: Algorithm,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The authority's certificate, in PEM.
    pub ca: String,
    /// When the certificate ends.
    pub not_after: OffsetDateTime,
    /// When to renew it.
    pub renew_at: OffsetDateTime,
}

/// The token of a device.
#[derive(Clone, Debug)]
pub struct DeviceToken {
    /// For every call.
    pub access_token: String,
    /// Seconds for which it is good.
    pub expires_in: u64,
    /// The device, with the credential.
    pub device: Device,
}

/// An enrolment token to be made.
#[derive(Clone, Debug)]
pub struct NewEnrolment {
    /// Producer of the devices.
    pub producer: ProducerId,
    /// The only device that it is for, if it names one.
    pub device: Option<DeviceId>,
    /// Labels that the devices get.
    pub labels: Labels,
    /// How often it may be used.
    pub uses: u32,
    /// How long it is good.
    pub life: Duration,
}

impl Backend {
    /// Makes an enrolment token for `actor`. The text is nowhere else.
    pub async fn make_enrolment(&self, new: NewEnrolment, actor: UserId) -> Result<(String, EnrolmentToken), store::Error> {
        let now = self.clock.now();
        let text = format!("{TOKEN_PREFIX}{}", random_id());
        let token = EnrolmentToken {
            id: random_id(),
            producer: new.producer,
            device: new.device.map(|device| device.to_string()),
            labels: new.labels,
            uses_left: i64::from(new.uses),
            expires_at: now + new.life,
            created_at: now,
        };
        self.store.add_enrolment(&secret_hash(&text), &token).await?;
        let detail = json!({"device_id": token.device, "uses": new.uses, "expires_in": new.life.as_secs()});
        self.record("enrolment.create", Some(actor), format!("enrolment:{}", token.id), token.producer.user(), detail).await;
        Ok((text, token))
    }

    /// Takes an enrolment token back for `actor`; `None` where `producer` has none of this id. Without a producer: whoever's it is.
    pub async fn remove_enrolment(
        &self,
        producer: Option<ProducerId>,
        id: &str,
        actor: UserId,
    ) -> Result<Option<EnrolmentToken>, store::Error> {
        let removed = self.store.remove_enrolment(producer, id).await?;
        if let Some(token) = &removed {
            self.record("enrolment.remove", Some(actor), format!("enrolment:{id}"), token.producer.user(), Value::Null).await;
        }
        Ok(removed)
    }

    /// Enrols the key of a request for a certificate. Keys that the device had before end.
    pub async fn enrol(&self, token: &str, request: &str, named: Option<&DeviceId>) -> Result<Certified, Refused> {
        let key = read(request)?;
        let (now, credential) = (self.clock.now(), self.new_credential(&key));
        let outcome = self.store.enrol(&secret_hash(token), named, &credential, self.most_devices, now).await?;
        let (producer, device, ended) = match outcome {
            Enrolment::Enrolled { producer, device, ended } => (producer, device, ended),
            Enrolment::Invalid => return Err(Refused::Enrolment),
            Enrolment::Nameless => return Err(Refused::Nameless),
            Enrolment::Exists => return Err(Refused::Exists),
            Enrolment::Revoked => return Err(Refused::Revoked),
            Enrolment::KeyKnown => return Err(Refused::KeyKnown),
            Enrolment::TooMany => return Err(store::Error::TooManyDevices.into()),
        };
        info!(%producer, %device, algorithm = key.algorithm.as_str(), replaced = ended.len(), "a device enrolled");
        let detail = json!({"credential": credential.id, "algorithm": credential.algorithm, "replaced": ended});
        self.record("device.enrol", None, device_object(producer, device.as_str()), producer.user(), detail).await;
        self.end_credentials(ended).await;
        self.certify(&key, producer, device.as_str(), &credential)
    }

    /// The next certificate for a key that is enrolled, be the last one ended or not. A device that shows a token of its own gets one for
    /// another key, which takes the place of its present one.
    pub async fn renew_certificate(&self, request: &str, caller: Option<&Grant>) -> Result<Certified, Refused> {
        let key = read(request)?;
        let credential = self.new_credential(&key);
        if let Some(known) = self.store.device_of_key(&key.fingerprint).await? {
            let own = good(&known)?;
            self.account_of(&known).await?;
            if !self.store.renew_credential(&own.id, &credential.serial, credential.not_after).await? {
                return Err(Refused::Unknown);
            }
            return self.certify(&key, known.producer, &known.device, &NewCredential { id: own.id.clone(), ..credential });
        }
        // Whoever may speak for the device by its present key may give it another.
        let (Some(grant), Some(device)) = (caller, caller.and_then(Grant::own_device)) else { return Err(Refused::Unknown) };
        let producer = grant.user.producer();
        let known = self.store.device(producer, device).await?.ok_or(Refused::Unknown)?;
        let own = good(&known)?;
        if device_family(&own.id) != grant.family {
            return Err(Refused::Unknown);
        }
        let ended =
            self.store.rotate_credential(&own.id, producer, device, &credential, self.clock.now()).await?.ok_or(Refused::KeyKnown)?;
        info!(%producer, device, algorithm = key.algorithm.as_str(), "a device has another key");
        let detail = json!({"credential": credential.id, "algorithm": credential.algorithm, "replaced": ended});
        self.record("device.rotate", None, device_object(producer, device), producer.user(), detail).await;
        self.end_credentials(ended).await;
        self.certify(&key, producer, device, &credential)
    }

    /// A token for the device whose key signed `nonce` (see [`login_text`]).
    pub async fn device_token(&self, id: &str, nonce: &str, signature: &str) -> Result<DeviceToken, Refused> {
        let nonce_id = self.tokens.check_nonce(nonce).map_err(|_| STALE)?;
        let device = self.store.device_of_credential(id).await?.ok_or(Refused::Unknown)?;
        let credential = good(&device)?;
        let proved = Algorithm::of(&credential.algorithm).zip(STANDARD.decode(signature).ok()).is_some_and(|(algorithm, signature)| {
            is_signed(algorithm, &credential.public_key, login_text(nonce, id).as_bytes(), &signature)
        });
        if !proved {
            return Err(Refused::Proof("the signature is not of this nonce by the device's key"));
        }
        let user = self.account_of(&device).await?;
        // Last, so that only its signer uses it up. The clocks of nodes differ, so it is remembered for longer than it is good.
        match self.relay.log().take_once(&format!("nonce:{nonce_id}"), auth::NONCE_TTL * 2).await {
            Ok(true) => {}
            Ok(false) => return Err(STALE),
            Err(e) => {
                warn!(error = %e, "a nonce cannot be compared with those that were used");
                return Err(Refused::Token(auth::Error::Unavailable));
            }
        }
        let (access_token, expires_in) = self.tokens.issue_device(&user, &device.device, id)?;
        if let Err(e) = self.store.note_device_login(id, self.clock.now()).await {
            warn!(error = %e, "a device's login cannot be noted");
        }
        Ok(DeviceToken { access_token, expires_in, device })
    }

    /// Has a listener's identity ask clients for certificates of devices, where that is wanted (DEVICE_CERTIFICATES).
    pub fn ask_for_certificates(&self, identity: &ServerIdentity) -> Result<(), AuthorityError> {
        if self.device_certificates { identity.ask_clients(self.authority.trusted.iter().map(String::as_str)) } else { Ok(()) }
    }

    /// Grant of the device whose certificate (DER) a client has shown, for as long as that is good. The store says whose key it is; the name in
    /// the certificate has to say so too.
    pub async fn authenticate_certificate(&self, certificate: &[u8]) -> Result<Grant, auth::Error> {
        let shown = Shown::read(certificate).ok_or(auth::Error::Invalid)?;
        let away = |e: Refused| match e {
            Refused::Unknown => auth::Error::Invalid,
            Refused::Revoked => auth::Error::Revoked,
            Refused::Store(e @ store::Error::TooManyDevices) => {
                warn!(error = %e, "a device that comes by a certificate is not registered");
                auth::Error::Invalid
            }
            other => {
                warn!(error = %other, "a device's certificate cannot be looked up");
                auth::Error::Unavailable
            }
        };
        let device = match self.store.device_of_key(&shown.fingerprint).await.map_err(|e| away(e.into()))? {
            Some(device) => device,
            None => self.adopt(certificate, &shown).await.map_err(away)?,
        };
        let credential = good(&device).map_err(away)?;
        if !shown.names.contains(&device_ca::name(device.producer.0, &device.device)) {
            return Err(auth::Error::Invalid);
        }
        let user = self.account_of(&device).await.map_err(away)?;
        Ok(self.tokens.device_grant(&user, &device.device, &credential.id, shown.not_after))
    }

    /// Registers the device of a certificate that an authority of the operator's own has issued: at first sight, as if it had enrolled by a token
    /// that names it. A key that the device had before ends.
    async fn adopt(&self, certificate: &[u8], shown: &Shown) -> Result<Device, Refused> {
        let now = self.clock.now();
        let issued = |issuers: &Issuers| issuers.have_issued(certificate, unix_time(now));
        let named = shown.device().filter(|_| self.authority.issuers.as_ref().is_some_and(issued));
        let (Some((producer, device)), Some(algorithm)) = (named, shown.algorithm) else { return Err(Refused::Unknown) };
        let (producer, device) = (ProducerId(producer), DeviceId::new(&device).map_err(|_| Refused::Unknown)?);
        self.open_account(producer).await?;
        let text = random_id();
        let token = EnrolmentToken {
            id: random_id(),
            producer,
            device: Some(device.to_string()),
            labels: Labels::new(),
            uses_left: 1,
            expires_at: now + ADOPTION,
            created_at: now,
        };
        let credential = NewCredential {
            id: random_id(),
            algorithm: algorithm.as_str(),
            public_key: shown.public_key.clone(),
            fingerprint: shown.fingerprint.clone(),
            serial: shown.serial.chars().take(MAX_SERIAL).collect(),
            not_after: shown.not_after,
        };
        self.store.add_enrolment(&secret_hash(&text), &token).await?;
        let outcome = self.store.enrol(&secret_hash(&text), None, &credential, self.most_devices, now).await;
        match outcome {
            Ok(Enrolment::Enrolled { ended, .. }) => {
                info!(%producer, %device, algorithm = algorithm.as_str(), replaced = ended.len(), "a device came by a certificate of an authority of yours");
                let detail = json!({"credential": credential.id, "algorithm": credential.algorithm, "replaced": ended});
                self.record("device.adopt", None, device_object(producer, device.as_str()), producer.user(), detail).await;
                self.end_credentials(ended).await;
            }
            other => {
                self.store.remove_enrolment(Some(producer), &token.id).await?;
                match other? {
                    // By another of its connections, a moment ago.
                    Enrolment::KeyKnown => {}
                    Enrolment::TooMany => return Err(store::Error::TooManyDevices.into()),
                    Enrolment::Revoked => return Err(Refused::Revoked),
                    _ => return Err(Refused::Unknown),
                }
            }
        }
        self.store.device_of_key(&shown.fingerprint).await?.ok_or(Refused::Unknown)
    }

    /// Sets a device's state for `actor`, here and on every node. `None`: there is no such device.
    pub async fn set_device_state(
        &self,
        producer: ProducerId,
        device: &DeviceId,
        state: DeviceState,
        actor: UserId,
    ) -> Result<Option<Device>, store::Error> {
        let Some((device, ended)) = self.store.set_device_state(producer, device, state, self.most_devices, self.clock.now()).await? else {
            return Ok(None);
        };
        self.devices.set(producer, &device.device, device.state, device.withheld);
        for event in device_changed(&device, &ended) {
            self.broadcast(event).await;
        }
        self.record(state_act(state), Some(actor), device_object(producer, &device.device), producer.user(), Value::Null).await;
        Ok(Some(device))
    }

    /// Gives a device other labels, for `actor`. `None`: there is no such device.
    pub async fn label_device(
        &self,
        producer: ProducerId,
        device: &DeviceId,
        labels: &Labels,
        actor: UserId,
    ) -> Result<Option<Device>, store::Error> {
        let Some((device, changed)) = self.store.label_device(producer, device, labels).await? else { return Ok(None) };
        if changed {
            let detail = json!({"labels": device.labels});
            self.record("device.label", Some(actor), device_object(producer, &device.device), producer.user(), detail).await;
        }
        Ok(Some(device))
    }

    /// May it send records here? With DEVICE_PASSWORDS=deny a login by password may not.
    pub fn may_publish(&self, grant: &Grant) -> Result<(), Denied> {
        grant.may_publish()?;
        if self.device_passwords == Passwords::Deny && grant.is_by_password() { Err(Denied::Credential) } else { Ok(()) }
    }

    fn new_credential(&self, key: &Requested) -> NewCredential {
        NewCredential {
            id: random_id(),
            algorithm: key.algorithm.as_str(),
            public_key: key.public_key.clone(),
            fingerprint: key.fingerprint.clone(),
            serial: serial(&random_id()),
            not_after: self.clock.now() + self.certificate_life,
        }
    }

    fn certify(&self, key: &Requested, producer: ProducerId, device: &str, credential: &NewCredential) -> Result<Certified, Refused> {
        let (from, until) = (self.clock.now(), credential.not_after);
        let subject = Subject { producer: producer.0, device, serial: &credential.serial, from, until };
        let certificate = self.authority.signs.sign(key, &subject)?;
        Ok(Certified {
            producer,
            device: device.to_owned(),
            credential: credential.id.clone(),
            algorithm: key.algorithm,
            certificate,
            ca: self.authority.signs.certificate().to_owned(),
            not_after: until,
            renew_at: from + (until - from) * RENEW_AT,
        })
    }

    /// The account of a device, which must be open.
    async fn account_of(&self, device: &Device) -> Result<User, Refused> {
        self.open_account(device.producer).await
    }

    /// The account of a producer, which must be open.
    async fn open_account(&self, producer: ProducerId) -> Result<User, Refused> {
        let account = self.store.account(producer.user()).await?;
        let open = account.filter(|account| account.revoked_at.is_none() && account.user.role == Role::Producer);
        Ok(open.ok_or(Refused::Revoked)?.user)
    }

    async fn end_credentials(&self, ended: Vec<String>) {
        for id in ended {
            self.end_family(device_family(&id)).await;
        }
    }
}

/// Events that tell of a device's state, and of the credentials that ended with it.
pub fn device_changed(device: &Device, ended: &[String]) -> Vec<Event> {
    let Device { producer, device, state, withheld, .. } = device;
    let changed = Event::DeviceChanged { producer: *producer, device: device.clone(), state: *state, withheld: *withheld };
    let ended = ended.iter().map(|id| Event::FamilyRevoked { family: device_family(id) });
    std::iter::once(changed).chain(ended).collect()
}

/// The act of setting this state.
pub fn state_act(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Active => "device.restore",
        DeviceState::Quarantined => "device.quarantine",
        DeviceState::Revoked => "device.revoke",
    }
}

/// A device as acts name it.
pub fn device_object(producer: ProducerId, device: &str) -> String {
    format!("device:{producer}:{device}")
}

fn read(request: &str) -> Result<Requested, Refused> {
    Requested::read(request)
        .map_err(|_| Refused::Proof("csr is no request for a certificate in PEM, signed by its own key of Ed25519 or P-256"))
}

/// A time as TLS has it.
fn unix_time(at: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().unsigned_abs()))
}

/// The device's credential, where both are good.
fn good(device: &Device) -> Result<&Credential, Refused> {
    if device.state == DeviceState::Revoked {
        return Err(Refused::Revoked);
    }
    device.credential.as_ref().filter(|credential| credential.revoked_at.is_none()).ok_or(Refused::Unknown)
}
