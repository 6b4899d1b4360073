//! Tokens of an issuer that serves its documents over HTTP, here: what is taken, what is not, and how often it is asked.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use motience_auth as auth;
use motience_proto::model::Role;
use motience_runtime::clock::{Clock, Manual};
use motience_settings::env::Env;
use parking_lot::Mutex;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant, sleep},
};

use crate::{Config, Identity, Issuers};

const START: i64 = 1_738_150_500;

/// A key of an issuer: how it signs, and its public half.
struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    public: Value,
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn ed25519(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        let public =
            json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref()), "kid": id, "use": "sig", "alg": "EdDSA"});
        Self { algorithm: Algorithm::EdDSA, key, public }
    }

    fn p256(id: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let key = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
        Self { algorithm: Algorithm::ES256, key, public: json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y), "kid": id}) }
    }

    fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public = pair.public_key();
        let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero());
        let public = json!({"kty": "RSA", "n": base64(n), "e": base64(e), "kid": id, "x5c": ["whatever"], "key_ops": ["verify"]});
        Self { algorithm: Algorithm::RS256, key: EncodingKey::from_rsa_der(rsa_inner(der.as_ref())), public }
    }

    fn sign(&self, claims: &Value) -> String {
        let header =
            Header { kid: self.public["kid"].as_str().map(str::to_owned), typ: Some("at+jwt".to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// The RSAPrivateKey (PKCS #1) in PKCS #8, which the signing library wants bare: the last octet string.
fn rsa_inner(pkcs8: &[u8]) -> &[u8] {
    // SEQUENCE, its length in two bytes; version; algorithm (15 bytes); OCTET STRING, its length in two bytes.
    &pkcs8[4 + 3 + 15 + 4..]
}

/// An issuer on a port of its own.
struct Served {
    url: String,
    keys: Arc<Mutex<Value>>,
    /// How it answers: a status line with headers, or nothing at all.
    answers: Arc<Mutex<Option<&'static str>>>,
    asked: Arc<AtomicUsize>,
}

impl Served {
    async fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/realms/x", listener.local_addr().unwrap());
        let (keys, answers) = (Arc::new(Mutex::new(Value::Null)), Arc::new(Mutex::new(Some("200 OK"))));
        let (asked, served) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&keys));
        let (counted, how, own) = (Arc::clone(&asked), Arc::clone(&answers), url.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (keys, how) = (served.lock().clone(), *how.lock());
                if let Some(status) = how {
                    answer(stream, &own, &keys, status, &counted).await;
                }
            }
        });
        let this = Self { url, keys, answers, asked };
        this.publish(signers);
        this
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock() = json!({"keys": signers.iter().map(|signer| signer.public.clone()).collect::<Vec<_>>()});
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

async fn answer(mut stream: TcpStream, url: &str, keys: &Value, status: &str, asked: &AtomicUsize) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /realms/x/") && head.contains("\r\nhost: 127.0.0.1:"), "{head}");
    let body = if head.contains("/.well-known/openid-configuration ") {
        json!({"issuer": url, "jwks_uri": format!("{url}/keys"), "token_endpoint": "https://elsewhere.example"})
    } else {
        asked.fetch_add(1, SeqCst);
        keys.clone()
    };
    let body = body.to_string();
    // In two chunks, as many servers answer.
    let (one, two) = body.split_at(body.len() / 2);
    let text =
        format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

fn issuers(served: &Served, more: Value) -> (Issuers, Manual) {
    let mut issuer = json!({"name": "x", "issuer": served.url, "audience": ["other", "motience"],
        "role": {"claim": "roles", "map": {"ops": "admin"}, "default": "consumer"}});
    let Value::Object(more) = more else { panic!("{more} is no object") };
    issuer.as_object_mut().unwrap().extend(more);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuers.json");
    std::fs::write(&path, json!([issuer]).to_string()).unwrap();
    let env = Env::from_pairs([("OIDC_ISSUERS", path.to_str().unwrap()), ("OIDC_KEYS_PAUSE", "1s")]);
    let (clock, hand) = Clock::manual(OffsetDateTime::from_unix_timestamp(START).unwrap());
    (Issuers::new(&env.read(Config::read_settings).unwrap(), &clock).unwrap(), hand)
}

fn claims(served: &Served) -> Value {
    json!({"iss": served.url, "aud": "motience", "sub": "u-1", "iat": START, "exp": START + 60, "preferred_username": "ada"})
}

async fn taken(issuers: &Issuers, token: &str) -> Identity {
    issuers.verify(token).await.unwrap().expect("it is of the issuer")
}

#[tokio::test]
async fn tokens_of_each_kind_of_key_are_taken() {
    let signers = [Signer::ed25519("e"), Signer::p256("p"), Signer::rsa("r")];
    let served = Served::start(&signers.each_ref()).await;
    let (issuers, hand) = issuers(&served, json!({}));
    for signer in &signers {
        let identity = taken(&issuers, &signer.sign(&claims(&served))).await;
        assert_eq!((identity.subject.as_str(), identity.username.as_deref(), identity.role), ("u-1", Some("ada"), Role::Consumer));
        assert_eq!((identity.issued_at.unix_timestamp(), identity.expires_at.unix_timestamp()), (START, START + 60));
        assert!(identity.scopes.are_all());
    }
    assert_eq!(served.asked(), 1, "all keys come at once");
    let token = signers[0].sign(&claims(&served));
    hand.advance(Duration::from_millis(59_999));
    taken(&issuers, &token).await;
    hand.advance(Duration::from_millis(1));
    assert_eq!(issuers.verify(&token).await, Err(auth::Error::Expired), "to the second");
}

#[tokio::test]
async fn a_token_that_is_not_quite_right_is_refused() {
    let (signer, stranger) = (Signer::p256("k"), Signer::p256("k"));
    let served = Served::start(&[&signer]).await;
    let (issuers, _hand) = issuers(&served, json!({"leeway": 30}));
    for (name, value) in [
        ("aud", json!("somebody")),
        ("aud", json!(["a", "b"])),
        ("aud", Value::Null),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("exp", json!("soon")),
        ("iat", Value::Null),
        ("iat", json!(START + 31)),
        ("nbf", json!(START + 31)),
        ("cnf", json!({"jkt": "x"})),
    ] {
        let mut spoilt = claims(&served);
        spoilt[name] = value;
        assert_eq!(issuers.verify(&signer.sign(&spoilt)).await, Err(auth::Error::Invalid), "{spoilt}");
        spoilt.as_object_mut().unwrap().remove(name);
        let optional = ["nbf", "cnf"].contains(&name);
        assert_eq!(issuers.verify(&signer.sign(&spoilt)).await.is_ok(), optional, "without {name}");
    }
    let mut early = claims(&served);
    early["iat"] = (START + 30).into();
    taken(&issuers, &signer.sign(&early)).await;
    assert_eq!(issuers.verify(&stranger.sign(&claims(&served))).await, Err(auth::Error::Invalid), "signed by another");
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k".to_owned());
    let public = serde_json::to_vec(&signer.public).unwrap();
    let forged = encode(&header, &claims(&served), &EncodingKey::from_secret(&public)).unwrap();
    assert_eq!(issuers.verify(&forged).await, Err(auth::Error::Invalid), "HS256 by the public key");
    let header = Header { kid: Some("k".to_owned()), typ: Some("logout+jwt".to_owned()), ..Header::new(Algorithm::ES256) };
    let logout = encode(&header, &claims(&served), &signer.key).unwrap();
    assert_eq!(issuers.verify(&logout).await, Err(auth::Error::Invalid), "a token of another use");
    for foreign in ["motience", "https://other.example"] {
        let mut claims = claims(&served);
        claims["iss"] = foreign.into();
        assert_eq!(issuers.verify(&signer.sign(&claims)).await, Ok(None), "{foreign}");
    }
    for text in ["", "a.b.c", "motk_x"] {
        assert_eq!(issuers.verify(text).await, Ok(None));
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_and_invented_ones_do_not_flood_the_issuer() {
    let (first, second) = (Signer::ed25519("1"), Signer::ed25519("2"));
    let served = Served::start(&[&first]).await;
    let (issuers, _hand) = issuers(&served, json!({}));
    taken(&issuers, &first.sign(&claims(&served))).await;
    let invented: Vec<String> = (0..200).map(|n| Signer::ed25519(&format!("no {n}")).sign(&claims(&served))).collect();
    let began = Instant::now();
    for outcome in join_all(invented.iter().map(|token| issuers.verify(token))).await {
        assert_eq!(outcome, Err(auth::Error::Invalid));
    }
    let most = 2 + began.elapsed().as_secs() as usize;
    assert!(served.asked() <= most, "asked {} times for 200 invented keys", served.asked());
    // The issuer rotates: both keys are there for a while, and both are good.
    served.publish(&[&first, &second]);
    let token = second.sign(&claims(&served));
    let deadline = Instant::now() + Duration::from_secs(20);
    while issuers.verify(&token).await.is_err() {
        assert!(Instant::now() < deadline, "the new key is not fetched");
        sleep(Duration::from_millis(50)).await;
    }
    taken(&issuers, &first.sign(&claims(&served))).await;
    // Away, or not itself: known keys still work, and who shows an unknown one is told to come again.
    let unknown = Signer::ed25519("3").sign(&claims(&served));
    for how in [None, Some("302 Found\r\nLocation: http://127.0.0.1:1/"), Some("500 Oops")] {
        *served.answers.lock() = how;
        let deadline = Instant::now() + Duration::from_secs(20);
        while issuers.verify(&unknown).await != Err(auth::Error::IssuerAway) {
            assert!(Instant::now() < deadline, "{how:?}");
            sleep(Duration::from_millis(50)).await;
        }
        taken(&issuers, &token).await;
    }
}

#[tokio::test]
async fn a_key_that_is_taken_back_is_believed_no_longer() {
    let (first, second) = (Signer::p256("1"), Signer::p256("2"));
    let served = Served::start(&[&first]).await;
    let (issuers, _hand) = issuers(&served, json!({}));
    let token = first.sign(&claims(&served));
    taken(&issuers, &token).await;
    served.publish(&[&second]);
    issuers.0[0].fetch_keys().await.unwrap();
    let outcome = issuers.verify(&token).await;
    assert_eq!(outcome, Err(auth::Error::Invalid));
    let mut plain = claims(&served);
    plain["roles"] = json!(["ops"]);
    let header = Header { kid: None, ..Header::new(Algorithm::ES256) };
    let without_id = encode(&header, &plain, &second.key).unwrap();
    assert_eq!(taken(&issuers, &without_id).await.role, Role::Admin, "there is one key only");
    served.publish(&[&first, &second]);
    issuers.0[0].fetch_keys().await.unwrap();
    assert_eq!(issuers.verify(&without_id).await, Err(auth::Error::Invalid), "which of two is not said");
}
