//! The keys of one issuer, as this node knows them: fetched ahead, and again where a token names one that is not known.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};
use tracing::info;
use url::Url;

use crate::{
    config::{Address, Algorithm, is_allowed},
    fetch::{self, Fetcher},
};

/// Most keys of one issuer that are looked at.
const MAX_KEYS: usize = 64;
/// Members of a key that say what it is. Others may be of kinds that are not known here.
const MEMBERS: [&str; 6] = ["kty", "crv", "x", "y", "n", "e"];

/// A public key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    id: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) decoding: Arc<DecodingKey>,
}

/// Why a token's key is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The issuer has no such key, or was asked too short a time ago.
    NoSuchKey,
    /// The issuer could not be asked.
    Away,
}

/// The keys.
#[derive(Debug)]
pub(crate) struct KeySet {
    issuer: Url,
    /// The value of `iss`, which is not written as `issuer` is where it has no slash at its end.
    name: String,
    fixed: Option<Url>,
    fetcher: Fetcher,
    pause: Duration,
    known: RwLock<Arc<[Key]>>,
    /// When they were asked for last, and whether that failed. Held while they are: of many who miss a key, one asks.
    asked: Mutex<Option<(Instant, bool)>>,
}

/// The part of an issuer's document about itself (OpenID Connect Discovery 1.0, section 3) that matters here.
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: Address,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Map<String, Value>>,
}

impl KeySet {
    /// The keys of this issuer, none of which is known yet. `fixed`: where they are.
    pub(crate) fn new((issuer, name): (Url, String), fixed: Option<Url>, fetcher: Fetcher, pause: Duration) -> Self {
        Self { issuer, name, fixed, fetcher, pause, known: RwLock::new(Arc::new([])), asked: Mutex::new(None) }
    }

    pub(crate) fn are_none(&self) -> bool {
        self.known.read().is_empty()
    }

    /// The key of a token with this `kid`, of this algorithm. One that is not known is asked for, within the pace that the settings allow.
    pub(crate) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Key, Unknown> {
        if let Some(key) = self.look(id, algorithm) {
            return Ok(key);
        }
        let mut asked = self.asked.lock().await;
        // Others may have asked meanwhile.
        if let Some(key) = self.look(id, algorithm) {
            return Ok(key);
        }
        if asked.is_none_or(|(at, _)| at.elapsed() >= self.pause) {
            let failed = self.fetch().await.is_err();
            *asked = Some((Instant::now(), failed));
        }
        let unknown = if asked.is_some_and(|(_, failed)| failed) { Unknown::Away } else { Unknown::NoSuchKey };
        self.look(id, algorithm).ok_or(unknown)
    }

    fn look(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Key> {
        let known = Arc::clone(&self.known.read());
        let mut fitting = known.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).cloned(),
            // A token may leave it out where there is no choice.
            None => fitting.next().filter(|_| fitting.next().is_none()).cloned(),
        }
    }

    /// Fetches the keys in any case.
    pub(crate) async fn refresh(&self) -> Result<(), fetch::Error> {
        let mut asked = self.asked.lock().await;
        let outcome = self.fetch().await;
        *asked = Some((Instant::now(), outcome.is_err()));
        outcome
    }

    async fn fetch(&self) -> Result<(), fetch::Error> {
        let outcome = self.fetched().await;
        metrics::counter!("motience_issuer_keys_fetched_total", "outcome" => if outcome.is_ok() { "done" } else { "failed" }).increment(1);
        let keys = outcome?;
        let mut known = self.known.write();
        if known.len() != keys.len() || known.iter().zip(&keys).any(|(old, new)| old.id != new.id) {
            info!(issuer = self.name, keys = keys.len(), "the keys of an issuer have changed");
        }
        *known = keys.into();
        Ok(())
    }

    async fn fetched(&self) -> Result<Vec<Key>, fetch::Error> {
        let wrong = |url: &Url, problem: &str| fetch::Error::Content { url: url.clone(), problem: problem.to_owned() };
        let at = match &self.fixed {
            Some(url) => url.clone(),
            None => {
                let mut url = self.issuer.clone();
                let path = format!("{}/.well-known/openid-configuration", url.path().trim_end_matches('/'));
                url.set_path(&path);
                let metadata: Metadata = self.fetcher.json(&url).await?;
                if metadata.issuer != self.name {
                    return Err(wrong(&url, "it is the document of another issuer"));
                }
                if !is_allowed(&self.issuer, &metadata.jwks_uri.0) {
                    return Err(wrong(&url, "its keys are not at an https address"));
                }
                metadata.jwks_uri.0
            }
        };
        let document: Document = self.fetcher.json(&at).await?;
        let keys: Vec<Key> = document.keys.into_iter().take(MAX_KEYS).filter_map(key).collect();
        if keys.is_empty() { Err(wrong(&at, "it has no key that could be used")) } else { Ok(keys) }
    }
}

/// A key of a set, where it is one for signatures that are checked here.
fn key(mut members: Map<String, Value>) -> Option<Key> {
    if members.get("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let id = members.get("kid").and_then(Value::as_str).map(str::to_owned);
    let declared = members.get("alg").and_then(Value::as_str).map(str::to_owned);
    members.retain(|name, _| MEMBERS.contains(&name.as_str()));
    let key: Jwk = serde_json::from_value(members.into()).ok()?;
    let (algorithm, names): (_, &[&str]) = match &key.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, &["RS256"]),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => (Algorithm::ES256, &["ES256"]),
        AlgorithmParameters::OctetKeyPair(curve) if curve.curve == EllipticCurve::Ed25519 => (Algorithm::EdDSA, &["EdDSA", "Ed25519"]),
        _ => return None,
    };
    if declared.is_some_and(|declared| !names.contains(&declared.as_str())) {
        return None;
    }
    Some(Key { id, algorithm, decoding: Arc::new(DecodingKey::from_jwk(&key).ok()?) })
}
