//! Certificates for development: a CA and a leaf for this machine, made on first run, remade before they expire.
//!
//! ECDSA P-256 and under 14 days, which is what browsers ask of a certificate that they trust by its hash
//! (WebTransport). The folder is locked while its files are made, and each file appears whole, so that several
//! processes may start at once. No key is ever committed: the folder belongs into `.gitignore`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    SanType,
};
use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{ServerName, UnixTime},
};
use time::{Duration, OffsetDateTime};

use crate::pem;

/// How long a leaf is good; browsers allow 14 days.
pub const LEAF_LIFE: Duration = Duration::days(13);
/// How long the CA is good.
pub const CA_LIFE: Duration = Duration::days(365);
/// A leaf with less left is remade: a server that starts now may run for days.
pub const LEAF_MARGIN: Duration = Duration::days(5);
/// A CA with less left is remade: it must outlive the leaves it signs.
pub const CA_MARGIN: Duration = Duration::days(14);
/// Certificates start in the past, for clocks that are a little behind.
const BACKDATE: Duration = Duration::hours(1);

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevCerts {
    /// Certificate of the CA, which clients trust.
    pub ca: PathBuf,
    /// The server's certificate.
    pub chain: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
}

/// Why there are no development certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the folder cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes what is missing, unreadable or near its end, for `localhost`, the loopback addresses and this machine's name.
pub fn ensure(dir: &Path, now: OffsetDateTime) -> Result<DevCerts, Error> {
    let certs = DevCerts { ca: dir.join("ca.pem"), chain: dir.join("server.pem"), key: dir.join("server.key") };
    let ca_key = dir.join("ca.key");
    let failed = |source| Error::Write { path: dir.into(), source };
    fs::create_dir_all(dir).map_err(failed)?;
    // Held until the end of this function: of two processes that start at once, the second finds what the first made.
    let lock = File::create(dir.join(".lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;

    let ca = match usable_ca(&certs.ca, &ca_key, now) {
        Some(ca) => ca,
        None => {
            tracing::info!(dir = %dir.display(), "making a development CA");
            make_ca(&certs.ca, &ca_key, now)?
        }
    };
    if !leaf_is_usable(&certs, now) {
        tracing::info!(dir = %dir.display(), "making a development certificate");
        make_leaf(&certs, &ca, now)?;
    }
    Ok(certs)
}

/// When the leaf in this folder is due to be remade.
pub fn renewal(dir: &Path) -> Option<OffsetDateTime> {
    let der = pem::certificates(&dir.join("server.pem")).ok()?.into_iter().next()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()?.checked_sub(LEAF_MARGIN)
}

fn usable_ca(path: &Path, key: &Path, now: OffsetDateTime) -> Option<Issuer<'static, KeyPair>> {
    let der = pem::certificates(path).ok()?.into_iter().next()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let end = certificate.validity().not_after.timestamp();
    let key = KeyPair::from_pem(&fs::read_to_string(key).ok()?).ok()?;
    let belongs = certificate.public_key().subject_public_key.data == key.public_key_raw();
    (belongs && end > (now + CA_MARGIN).unix_timestamp()).then(|| Issuer::from_ca_cert_der(&der, key).ok())?
}

/// Whether a client that trusts the CA would accept the leaf, now and until the margin ends.
fn leaf_is_usable(certs: &DevCerts, now: OffsetDateTime) -> bool {
    let Ok(identity) = pem::identity(&certs.chain, &certs.key) else { return false };
    let Ok(roots) = pem::roots(&certs.ca) else { return false };
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crate::provider()).build() else { return false };
    let names = names().into_iter().filter_map(|name| ServerName::try_from(name).ok()).chain(addresses().map(ServerName::from));
    let Some((leaf, others)) = identity.cert.split_first() else { return false };
    names
        .into_iter()
        .all(|name| [now, now + LEAF_MARGIN].into_iter().all(|at| verifier.verify_server_cert(leaf, others, &name, &[], unix(at)).is_ok()))
}

fn make_ca(path: &Path, key_path: &Path, now: OffsetDateTime) -> Result<Issuer<'static, KeyPair>, Error> {
    let mut params = params(now, CA_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, "Motience development CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    write(key_path, key.serialize_pem().as_bytes(), Mode::Private)?;
    write(path, certificate.pem().as_bytes(), Mode::Public)?;
    Ok(Issuer::new(params, key))
}

fn make_leaf(certs: &DevCerts, ca: &Issuer<'static, KeyPair>, now: OffsetDateTime) -> Result<(), Error> {
    let mut params = params(now, LEAF_LIFE)?;
    params.distinguished_name.push(DnType::CommonName, "Motience development server");
    params.subject_alt_names = CertificateParams::new(names())?.subject_alt_names;
    params.subject_alt_names.extend(addresses().map(SanType::IpAddress));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, ca)?;
    write(&certs.key, key.serialize_pem().as_bytes(), Mode::Private)?;
    write(&certs.chain, certificate.pem().as_bytes(), Mode::Public)
}

fn params(now: OffsetDateTime, life: Duration) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    Ok(params)
}

fn names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    names.extend(hostname().filter(|name| name != "localhost"));
    names
}

fn addresses() -> impl Iterator<Item = IpAddr> {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].into_iter()
}

/// This machine's name, where it has one that a certificate can carry.
fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname")).ok()?;
    let name = name.trim().to_ascii_lowercase();
    ServerName::try_from(name.as_str()).is_ok_and(|name| matches!(name, ServerName::DnsName(_))).then_some(name)
}

fn unix(at: OffsetDateTime) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(at.unix_timestamp()).unwrap_or(0)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Public,
    Private,
}

/// Writes beside the file and renames, so that no reader sees half of it.
fn write(path: &Path, bytes: &[u8], mode: Mode) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.into(), source };
    let draft = path.with_extension("draft");
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if mode == Mode::Private { 0o600 } else { 0o644 });
    // A draft left by a process that died could have any mode.
    let _ = fs::remove_file(&draft);
    let mut file = options.open(&draft).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)
}
