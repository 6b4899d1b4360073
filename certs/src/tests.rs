//! Both ends against each other, over a pipe in memory.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, pki_types::CertificateDer};
use time::{Duration, OffsetDateTime};

use crate::{
    Source, Trust, client,
    dev::{self, CA_LIFE, DevCerts, LEAF_LIFE, LEAF_MARGIN},
    pem,
    server::{self, EarlyData, ServerIdentity},
};

const ALPN: &[u8] = b"motience/1";

/// The system's time: rustls checks certificates against it.
#[expect(clippy::disallowed_methods, reason = "rustls compares with the system's clock")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn made() -> (tempfile::TempDir, DevCerts) {
    let dir = tempfile::tempdir().unwrap();
    let certs = dev::ensure(dir.path(), now()).unwrap();
    (dir, certs)
}

/// Runs a handshake; what the client saw of the server's certificate.
fn handshake(client: ClientConfig, server: Arc<ServerConfig>, name: &str) -> Result<CertificateDer<'static>, rustls::Error> {
    let mut client = ClientConnection::new(client.into(), name.to_owned().try_into().unwrap())?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut pipe = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut pipe).unwrap();
        }
        let mut bytes = pipe.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets()?;
        }
        let mut pipe = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut pipe).unwrap();
        }
        let mut bytes = pipe.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            client.process_new_packets()?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            assert_eq!(client.alpn_protocol(), Some(ALPN));
            return Ok(client.peer_certificates().unwrap()[0].clone().into_owned());
        }
    }
    panic!("the handshake does not end");
}

fn trusting(ca: &Path) -> ClientConfig {
    client::tcp_config(&Trust::Ca(ca.into()), &[ALPN]).unwrap()
}

fn serving(certs: &DevCerts) -> (Arc<ServerIdentity>, Arc<ServerConfig>) {
    let identity = ServerIdentity::load(&certs.chain, &certs.key).unwrap();
    (identity.clone(), server::tcp_config(identity, &[ALPN]))
}

#[test]
fn both_ends_meet_under_every_name() {
    let (_dir, certs) = made();
    let (identity, config) = serving(&certs);
    for name in ["localhost", "127.0.0.1", "::1"] {
        handshake(trusting(&certs.ca), config.clone(), name).unwrap();
    }
    assert!(handshake(trusting(&certs.ca), config, "elsewhere.example").is_err());
    let quic = server::quic_config(identity.clone(), &[ALPN], EarlyData::Accept);
    assert_eq!(quic.max_early_data_size, u32::MAX);
    assert_eq!(server::quic_config(identity, &[ALPN], EarlyData::Refuse).max_early_data_size, 0);
    handshake(client::quic_config(&Trust::Ca(certs.ca), &[ALPN]).unwrap(), quic, "localhost").unwrap();
}

/// A server acts at once on a first flight: a replay of the same bytes must be recognised.
#[test]
fn a_first_flight_that_is_sent_again_resumes_nothing() {
    let (_dir, certs) = made();
    let (client, (_, server)) = (Arc::new(trusting(&certs.ca)), serving(&certs));
    let hello = || ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
    let mut first = (hello(), ServerConnection::new(server.clone()).unwrap());
    // The ticket comes after the handshake.
    for _ in 0..4 {
        let mut pipe = Vec::new();
        while first.0.wants_write() {
            first.0.write_tls(&mut pipe).unwrap();
        }
        first.1.read_tls(&mut pipe.as_slice()).unwrap();
        first.1.process_new_packets().unwrap();
        let mut pipe = Vec::new();
        while first.1.wants_write() {
            first.1.write_tls(&mut pipe).unwrap();
        }
        let mut bytes = pipe.as_slice();
        while !bytes.is_empty() {
            first.0.read_tls(&mut bytes).unwrap();
            first.0.process_new_packets().unwrap();
        }
    }
    let mut flight = Vec::new();
    hello().write_tls(&mut flight).unwrap();
    let answer = || {
        let mut server = ServerConnection::new(server.clone()).unwrap();
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        server.handshake_kind()
    };
    assert_eq!(answer(), Some(HandshakeKind::Resumed));
    assert_eq!(answer(), Some(HandshakeKind::Full), "a ticket is good for one connection");
}

#[test]
fn another_ca_is_refused() {
    let ((_a, ours), (_b, theirs)) = (made(), made());
    let error = handshake(trusting(&theirs.ca), serving(&ours).1, "localhost").unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn a_reload_changes_what_is_served_and_a_bad_file_does_not() {
    let (_dir, certs) = made();
    let (identity, config) = serving(&certs);
    let before = handshake(trusting(&certs.ca), config.clone(), "localhost").unwrap();

    std::fs::write(&certs.chain, "nonsense").unwrap();
    assert!(identity.reload().unwrap_err().to_string().contains("server.pem"));
    assert_eq!(handshake(trusting(&certs.ca), config.clone(), "localhost").unwrap(), before);

    dev::ensure(certs.ca.parent().unwrap(), now()).unwrap();
    identity.reload().unwrap();
    assert_ne!(handshake(trusting(&certs.ca), config, "localhost").unwrap(), before);
}

#[test]
fn what_is_good_is_kept_and_what_nears_its_end_is_remade() {
    let (dir, certs) = made();
    let files = || [&certs.ca, &certs.chain, &certs.key].map(|path| std::fs::read(path).unwrap());
    let first = files();
    dev::ensure(dir.path(), now()).unwrap();
    assert_eq!(files(), first, "nothing is remade without need");

    let later = now() + LEAF_LIFE;
    dev::ensure(dir.path(), later).unwrap();
    let second = files();
    assert_eq!(second[0], first[0], "the CA stays");
    assert_ne!(second[1], first[1]);
    assert_ne!(second[2], first[2]);

    dev::ensure(dir.path(), now() + CA_LIFE - Duration::days(1)).unwrap();
    assert_ne!(files()[0], first[0]);
}

#[test]
fn what_nears_its_end_is_renewed_while_it_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::Development { dir: dir.path().into() };
    let (identity, ca) = source.load(now()).unwrap();
    let config = server::tcp_config(Arc::clone(&identity), &[ALPN]);
    let (before, hash, due) =
        (handshake(trusting(&ca.clone().unwrap()), config.clone(), "localhost").unwrap(), identity.hash(), source.renewal());
    assert_eq!((due.unwrap() - now()).whole_days(), (LEAF_LIFE - LEAF_MARGIN).whole_days() - 1);
    assert!(!source.renew(&identity, now()).unwrap(), "there is no need");
    assert_eq!(identity.hash(), hash);
    // A moment after it is due, though the old one is good for days.
    assert!(source.renew(&identity, due.unwrap() + Duration::minutes(1)).unwrap());
    assert_ne!(identity.hash(), hash);
    assert!(source.renewal() > due);
    // The new one begins in the future, for this machine's clock; its verifier would refuse it.
    let refused = handshake(trusting(&ca.unwrap()), config, "localhost").unwrap_err();
    assert!(
        matches!(
            refused,
            rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYetContext { .. } | rustls::CertificateError::NotValidYet)
        ),
        "{refused}"
    );
    assert_ne!(pem::certificates(&dir.path().join("server.pem")).unwrap()[0], before);
    assert_eq!(Source::Files { chain: "a".into(), key: "b".into() }.renewal(), None);
}

#[test]
fn a_key_of_another_certificate_is_refused_and_remade() {
    let ((dir, ours), (_b, theirs)) = (made(), made());
    std::fs::copy(&theirs.key, &ours.key).unwrap();
    assert!(matches!(ServerIdentity::load(&ours.chain, &ours.key), Err(pem::Error::Unusable { .. })));
    dev::ensure(dir.path(), now()).unwrap();
    ServerIdentity::load(&ours.chain, &ours.key).unwrap();
}

#[cfg(unix)]
#[test]
fn keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, certs) = made();
    for key in [certs.key, dir.path().join("ca.key")] {
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn many_at_once_agree() {
    let dir = tempfile::tempdir().unwrap();
    let now = now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let certs = dev::ensure(dir.path(), now).unwrap();
                handshake(trusting(&certs.ca), serving(&certs).1, "localhost").unwrap();
            });
        }
    });
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(pem::certificates(&empty), Err(pem::Error::NoCertificate { .. })));
    let missing = dir.path().join("missing.pem");
    assert!(client::quic_config(&Trust::Ca(missing), &[]).unwrap_err().to_string().contains("missing.pem"));
}

#[test]
fn the_platforms_trust_can_be_used() {
    // A machine without any trusted root has no platform verifier; that is an error, never a panic.
    match client::tcp_config(&Trust::Platform, &[ALPN]) {
        Ok(config) => assert_eq!(config.alpn_protocols, [ALPN]),
        Err(error) => assert!(matches!(error, client::Error::Platform(_))),
    }
}
