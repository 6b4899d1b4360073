//! The certification authority of an installation's devices: which keys there are, and certificates for them.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    digest::{SHA256, digest},
    hkdf,
    signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;

use crate::device_key::Algorithm;

/// How long an authority is good: devices are offline for years.
pub const CA_LIFE: Duration = Duration::days(20 * 365);
/// Certificates start in the past, for clocks that are a little behind.
const BACKDATE: Duration = Duration::hours(1);
/// Names of devices begin so.
const NAMESPACE: &str = "urn:motience:device:";
/// Object identifiers of keys (RFC 8410, section 3; RFC 5480, section 2.1), and the bytes of that of the curve P-256.
const ED25519_ID: &str = "1.3.101.112";
const EC_ID: &str = "1.2.840.10045.2.1";
const P256_ID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Bytes of a sealed key's nonce.
const NONCE: usize = 12;

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate cannot be made, or a key cannot be read.
    #[error("a device certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// The key is not the certificate's.
    #[error("the key is not the certificate's")]
    Mismatch,
    /// The certificate is no authority's.
    #[error("the certificate is not of a certification authority")]
    NoAuthority,
    /// The key is sealed under another secret.
    #[error("the key is sealed under another secret")]
    Sealed,
}

/// A request for a certificate that proves nothing: malformed, signed by another key, or of a kind that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request for a certificate is PKCS #10 in PEM, signed by its own key, which is of Ed25519 or P-256")]
pub struct BadRequest;

/// An authority with its key.
pub struct DeviceCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate to be made.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The producer of the device.
    pub producer: i64,
    /// The device.
    pub device: &'a str,
    /// The certificate's number in hex, see [`serial`].
    pub serial: &'a str,
    /// When it begins to be good.
    pub from: OffsetDateTime,
    /// When it ends.
    pub until: OffsetDateTime,
}

impl DeviceCa {
    /// A new one.
    pub fn generate(now: OffsetDateTime) -> Result<Self, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Motience devices");
        params.not_before = now - BACKDATE;
        params.not_after = now + CA_LIFE;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// One whose certificate and key are in PEM.
    pub fn load(certificate: &str, key: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|_| Error::NoAuthority)?;
        let parsed = pem.parse_x509().map_err(|_| Error::NoAuthority)?;
        if !parsed.is_ca() {
            return Err(Error::NoAuthority);
        }
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err(Error::Mismatch);
        }
        Ok(Self { issuer: Issuer::from_ca_cert_pem(certificate, key)?, certificate: certificate.to_owned() })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, in PEM. For nobody else's eyes.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Its key under the seal of a secret, in Base64.
    pub fn sealed_key(&self, secret: &[u8]) -> Result<String, Error> {
        let mut bytes = self.key_pem().into_bytes();
        let nonce = seal(secret).seal_in_place_append_tag(Aad::empty(), &mut bytes).map_err(|_| Error::Sealed)?;
        Ok(STANDARD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// One whose key is under the seal of a secret.
    pub fn open(certificate: &str, sealed: &str, secret: &[u8]) -> Result<Self, Error> {
        let bytes = STANDARD.decode(sealed).map_err(|_| Error::Sealed)?;
        let (nonce, bytes) = bytes.split_at_checked(NONCE).ok_or(Error::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Sealed)?;
        let mut bytes = bytes.to_vec();
        let key = seal(secret).open_in_place(nonce, Aad::empty(), &mut bytes).map_err(|_| Error::Sealed)?;
        Self::load(certificate, std::str::from_utf8(key).map_err(|_| Error::Sealed)?)
    }

    /// A client certificate for a device's key, in PEM.
    pub fn sign(&self, key: &Requested, subject: &Subject<'_>) -> Result<String, Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.device);
        params.serial_number = Some(SerialNumber::from(bytes_of(subject.serial)));
        params.subject_alt_names = vec![SanType::URI(name(subject.producer, subject.device).try_into()?)];
        params.not_before = subject.from - BACKDATE;
        params.not_after = subject.until;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&key.request.public_key, &self.issuer)?.pem())
    }
}

impl fmt::Debug for DeviceCa {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceCa")
    }
}

/// A key that somebody has proved to have.
pub struct Requested {
    request: CertificateSigningRequestParams,
    /// Kind of the key.
    pub algorithm: Algorithm,
    /// The SubjectPublicKeyInfo in Base64.
    pub public_key: String,
    /// Its SHA-256 in hex.
    pub fingerprint: String,
}

impl Requested {
    /// Checks a request for a certificate, in PEM. Nothing but its key counts: the authority says whose it is.
    pub fn read(pem: &str) -> Result<Self, BadRequest> {
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(|_| BadRequest)?;
        let key = request.public_key.der_bytes();
        let algorithm = match key.len() {
            32 if *request.public_key.algorithm() == rcgen::PKCS_ED25519 => Algorithm::Ed25519,
            65 if *request.public_key.algorithm() == PKCS_ECDSA_P256_SHA256 => Algorithm::P256,
            _ => return Err(BadRequest),
        };
        let info = request.public_key.subject_public_key_info();
        Ok(Self { algorithm, public_key: STANDARD.encode(&info), fingerprint: hex(digest(&SHA256, &info).as_ref()), request })
    }
}

/// The subject of a device's certificate, whose signature TLS has checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Kind of its key, where it is one that devices may have.
    pub algorithm: Option<Algorithm>,
    /// The SubjectPublicKeyInfo in Base64.
    pub public_key: String,
    /// Its SHA-256 in hex.
    pub fingerprint: String,
    /// The certificate's number in hex.
    pub serial: String,
    /// Its names, see [`name`].
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: OffsetDateTime,
}

impl Shown {
    /// Reads a certificate in DER; `None` where it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
        let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
        let info = certificate.public_key();
        let key = &info.subject_public_key.data;
        let algorithm = match info.algorithm.algorithm.to_id_string().as_str() {
            ED25519_ID if key.len() == 32 => Some(Algorithm::Ed25519),
            // Of all curves, this one alone has keys of 65 bytes that these signatures are checked with.
            EC_ID if key.len() == 65 && info.raw.windows(P256_ID.len()).any(|part| part == P256_ID) => Some(Algorithm::P256),
            _ => None,
        };
        Some(Self {
            algorithm,
            public_key: STANDARD.encode(info.raw),
            fingerprint: hex(digest(&SHA256, info.raw).as_ref()),
            serial: hex(certificate.raw_serial()),
            names: names.into_iter().flatten().filter_map(uri).collect(),
            not_after: OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()?,
        })
    }
}

impl Shown {
    /// The device that it names, where it names one and no more: the producer, and the device's name.
    pub fn device(&self) -> Option<(i64, String)> {
        let [name] = &self.names[..] else { return None };
        let (producer, encoded) = name.strip_prefix(NAMESPACE)?.split_once(':')?;
        let (producer, mut bytes, mut rest) = (producer.parse().ok()?, Vec::new(), encoded.as_bytes());
        while let [first, after @ ..] = rest {
            rest = after;
            bytes.push(match (first, after) {
                (b'%', [high, low, after @ ..]) => {
                    rest = after;
                    u8::from_str_radix(std::str::from_utf8(&[*high, *low]).ok()?, 16).ok()?
                }
                (b'%', _) => return None,
                (other, _) => *other,
            });
        }
        let device = String::from_utf8(bytes).ok()?;
        // One way to write each name.
        (self::name(producer, &device) == *name).then_some((producer, device))
    }
}

/// Whether a signature is of a message and a key, whose SubjectPublicKeyInfo is in Base64.
pub fn is_signed(algorithm: Algorithm, public_key: &str, message: &[u8], signature: &[u8]) -> bool {
    // The key itself is the end of its SubjectPublicKeyInfo (RFC 8410, section 4; RFC 5480, section 2).
    let (kind, length): (&'static dyn VerificationAlgorithm, usize) = match algorithm {
        Algorithm::Ed25519 => (&ED25519, 32),
        Algorithm::P256 => (&ECDSA_P256_SHA256_ASN1, 65),
    };
    let Ok(info) = STANDARD.decode(public_key) else { return false };
    let Some(key) = info.len().checked_sub(length).map(|start| &info[start..]) else { return false };
    UnparsedPublicKey::new(kind, key).verify(message, signature).is_ok()
}

/// The name of a device in its certificate: `urn:motience:device:PRODUCER:DEVICE`, the device percent-encoded (RFC 8141).
pub fn name(producer: i64, device: &str) -> String {
    let encoded: String = device
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("{NAMESPACE}{producer}:{encoded}")
}

/// A certificate's number out of random hexadecimal digits: positive and not zero, as RFC 5280 (section 4.1.2.2) wants it.
pub fn serial(random: &str) -> String {
    format!("4{}", random.get(1..).unwrap_or_default())
}

/// Tells a secret from others, and nothing of it.
pub fn secret_id(secret: &[u8]) -> String {
    let mut id = [0; 16];
    derive(secret, b"device CA: which secret 1", &mut id);
    hex(&id)
}

fn seal(secret: &[u8]) -> RandomizedNonceKey {
    let mut key = [0; 32];
    derive(secret, b"device CA: key 1", &mut key);
    RandomizedNonceKey::new(&AES_256_GCM, &key).expect("AES-256 has keys of 32 bytes")
}

fn derive(secret: &[u8], purpose: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"motience")
        .extract(secret)
        .expand(&[purpose], Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF-SHA256 gives up to 8160 bytes");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).filter_map(|n| u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::device_key::{DeviceKey, login_text};

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    #[test]
    fn a_key_of_either_kind_gets_a_certificate_and_signs() {
        let ca = DeviceCa::generate(NOW).unwrap();
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let key = DeviceKey::from_pem(&DeviceKey::generate(algorithm).unwrap().pem()).unwrap();
            let requested = Requested::read(&key.request("pumpe 7/ü").unwrap()).unwrap();
            assert_eq!((requested.algorithm, Algorithm::of(algorithm.as_str())), (algorithm, Some(algorithm)));
            let serial = serial(&"f".repeat(32));
            let subject = Subject { producer: 7, device: "pumpe 7/ü", serial: &serial, from: NOW, until: NOW + Duration::days(7) };
            let pem = ca.sign(&requested, &subject).unwrap();
            let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            let (_, authority) = x509_parser::pem::parse_x509_pem(ca.certificate().as_bytes()).unwrap();
            let authority = authority.parse_x509().unwrap();
            certificate.verify_signature(Some(authority.public_key())).unwrap();
            assert_eq!(certificate.validity().not_after.timestamp(), (NOW + Duration::days(7)).unix_timestamp());
            let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
            assert_eq!(names, [GeneralName::URI("urn:motience:device:7:pumpe%207%2F%C3%BC")]);
            let shown = Shown::read(&pem.contents).unwrap();
            assert_eq!((&shown.fingerprint, shown.names), (&requested.fingerprint, vec![name(7, "pumpe 7/ü")]));
            assert_eq!(certificate.raw_serial_as_string().replace(':', ""), serial);
            assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth && !certificate.is_ca());

            let text = login_text("nonce", "credential");
            let signature = key.sign(text.as_bytes()).unwrap();
            assert!(is_signed(algorithm, &requested.public_key, text.as_bytes(), &signature));
            assert!(!is_signed(algorithm, &requested.public_key, login_text("other", "credential").as_bytes(), &signature));
            let other = DeviceKey::generate(algorithm).unwrap().sign(text.as_bytes()).unwrap();
            assert!(!is_signed(algorithm, &requested.public_key, text.as_bytes(), &other));
        }
    }

    #[test]
    fn a_request_that_proves_nothing_is_refused() {
        let request = DeviceKey::generate(Algorithm::Ed25519).unwrap().request("a").unwrap();
        let mut lines: Vec<&str> = request.lines().collect();
        let spoilt = lines[2].replace(['A', 'B', 'C', 'D', 'E', 'F'], "z");
        lines[2] = &spoilt;
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let p384 = CertificateParams::new(Vec::new()).unwrap().serialize_request(&other).unwrap().pem().unwrap();
        for wrong in [&lines.join("\n"), "", "-----BEGIN CERTIFICATE REQUEST-----\n", p384.as_str()] {
            assert_eq!(Requested::read(wrong).err(), Some(BadRequest), "{wrong}");
        }
        assert!(Requested::read(&request).is_ok());
    }

    #[test]
    fn a_sealed_key_opens_under_its_own_secret_alone() {
        let ca = DeviceCa::generate(NOW).unwrap();
        let sealed = ca.sealed_key(b"secret").unwrap();
        assert!(!sealed.contains("PRIVATE") && sealed != ca.sealed_key(b"secret").unwrap());
        assert_eq!(DeviceCa::open(ca.certificate(), &sealed, b"secret").unwrap().certificate(), ca.certificate());
        assert!(matches!(DeviceCa::open(ca.certificate(), &sealed, b"another"), Err(Error::Sealed)));
        assert!(matches!(DeviceCa::open(ca.certificate(), "AAAA", b"secret"), Err(Error::Sealed)));
        assert_ne!(secret_id(b"secret"), secret_id(b"another"));
        let other = DeviceCa::generate(NOW).unwrap();
        assert!(matches!(DeviceCa::open(other.certificate(), &sealed, b"secret"), Err(Error::Mismatch)));
        let leaf = DeviceKey::generate(Algorithm::P256).unwrap();
        let subject = Subject { producer: 1, device: "a", serial: "40", from: NOW, until: NOW + Duration::days(1) };
        let pem = ca.sign(&Requested::read(&leaf.request("a").unwrap()).unwrap(), &subject).unwrap();
        assert!(matches!(DeviceCa::load(&pem, &leaf.pem()), Err(Error::NoAuthority)));
    }
}
