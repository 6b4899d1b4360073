//! Redis over TLS, with a certificate on both sides.

use std::path::{Path, PathBuf};

use motience_testing::Redis;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{Device, P, all, node, try_node, write};

/// An authority in `dir`, and certificates that it signed.
pub(super) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
    }

    pub(super) fn path(&self, file: &str) -> String {
        self.dir.join(file).to_str().unwrap().to_owned()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub(super) fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        // Of another name than the authority: it would be taken for its own issuer.
        params.distinguished_name.push(DnType::CommonName, name);
        std::fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn a_node_reaches_redis_over_tls_with_its_own_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.sign("server");
    authority.sign("node");
    let redis = Redis::over_tls(&authority.path("server.pem"), &authority.path("server.key"), &authority.path("ca.pem")).await;
    let (ca, cert, key) = (authority.path("ca.pem"), authority.path("node.pem"), authority.path("node.key"));
    let settings = [("REDIS_CA", &ca[..]), ("REDIS_CERT", &cert), ("REDIS_KEY", &key)];
    let url = redis.tls_url();
    let first = node(&url, &settings).await;
    let second = node(&url, &settings).await;
    let mut reader = second.relay.subscriber();
    reader.follow(P.producer, motience_relay::StartPosition::Live).await.unwrap();
    let mut devices = [Device::new(first.relay.log(), P, "d").await];
    write(first.relay.log(), &mut devices, &[1, 2]).await.unwrap();
    tokio::time::timeout(super::LIMIT, reader.next()).await.unwrap();
    assert_eq!(all(second.relay.log(), P).await.len(), 2);

    // Without its own certificate Redis refuses the node; without the authority the node refuses Redis.
    for (few, why) in [(&settings[..1], "a certificate of the node's own"), (&settings[1..], "an authority that signed")] {
        let error = try_node(&url, few).await.err().unwrap_or_else(|| panic!("connected without {why}")).to_string();
        assert_eq!(error.matches("REDIS_URL").count(), 1, "{error}");
        assert_eq!(error.matches("127.0.0.1").count(), 1, "{error}");
    }
    let wrong = try_node(&url, &[("REDIS_CA", "/nowhere.pem")]).await.unwrap_err().to_string();
    assert!(wrong.contains("REDIS_CA names /nowhere.pem"), "{wrong}");
}
