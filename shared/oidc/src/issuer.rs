//! One issuer: its tokens checked, and read.

use std::{slice, time::Duration};

use jsonwebtoken::{self as jwt, Validation, decode, decode_header};
use motience_auth::{self as auth, Scopes};
use motience_proto::model::Role;
use motience_runtime::clock::Clock;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use url::Url;

use crate::{
    claims,
    config::{Algorithm, ConsoleClient, IssuerConfig},
    fetch::{self, Fetcher},
    key_set::{KeySet, Unknown},
};

/// Types of a token that gives access (RFC 9068, section 2.1), and what providers write who do not know that document.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];
/// Longest `sub`, in bytes (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT: usize = 255;

/// The holder of a token, and its rights here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The issuer.
    pub issuer: String,
    /// Its name here, in which names of its accounts end.
    pub issuer_name: String,
    /// The issuer's own name for the person or program, which never changes.
    pub subject: String,
    /// The name by which people know it.
    pub username: Option<String>,
    /// The role of its account.
    pub role: Role,
    /// How much of what its account may do the token allows.
    pub scopes: Scopes,
    /// When the token was issued, to the second.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// An issuer, with its keys.
#[derive(Debug)]
pub(crate) struct Issuer {
    config: IssuerConfig,
    keys: KeySet,
    validation: Validation,
    clock: Clock,
}

impl Issuer {
    pub(crate) fn new(config: IssuerConfig, fetcher: Fetcher, pause: Duration, clock: Clock) -> Self {
        let mut validation = Validation::new(jwt::Algorithm::RS256);
        validation.set_issuer(slice::from_ref(&config.issuer));
        validation.set_audience(config.audience.all());
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        // The library only knows the machine's clock; times are compared with ours below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let url = Url::parse(&config.issuer).expect("the file was checked when it was read");
        let keys = KeySet::new((url, config.issuer.clone()), config.jwks_uri.clone().map(|address| address.0), fetcher, pause);
        Self { config, keys, validation, clock }
    }

    /// The value of `iss`.
    pub(crate) fn url(&self) -> &str {
        &self.config.issuer
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.keys.are_none()
    }

    pub(crate) async fn fetch_keys(&self) -> Result<(), fetch::Error> {
        self.keys.refresh().await
    }

    pub(crate) fn console_client(&self) -> Option<ConsoleClient> {
        let rule = self.config.console.clone()?;
        let name = self.config.name.clone();
        Some(ConsoleClient {
            label: rule.label.unwrap_or_else(|| name.clone()),
            name,
            issuer: self.config.issuer.clone(),
            client_id: rule.client_id,
            scope: rule.scope,
            parameters: rule.parameters,
        })
    }

    /// Checks a token that says it is this issuer's.
    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, auth::Error> {
        let header = decode_header(token).map_err(|_| auth::Error::Invalid)?;
        let algorithm = match header.alg {
            jwt::Algorithm::RS256 => Algorithm::RS256,
            jwt::Algorithm::ES256 => Algorithm::ES256,
            jwt::Algorithm::EdDSA => Algorithm::EdDSA,
            _ => return Err(auth::Error::Invalid),
        };
        let is_access = header.typ.as_deref().is_none_or(|typ| TYPES.contains(&typ.to_ascii_lowercase().as_str()));
        if !is_access || header.crit.is_some() || !self.config.algorithms.contains(&algorithm) {
            return Err(auth::Error::Invalid);
        }
        let key = self.keys.find(header.kid.as_deref(), algorithm).await.map_err(|unknown| match unknown {
            Unknown::NoSuchKey => auth::Error::Invalid,
            Unknown::Away => auth::Error::IssuerAway,
        })?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let claims: Map<String, Value> = decode(token, &key.decoding, &validation).map_err(|_| auth::Error::Invalid)?.claims;
        self.identity(&claims)
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, auth::Error> {
        let invalid = auth::Error::Invalid;
        // A token that is bound to a key of its holder (RFC 7800) is worth nothing to whoever shows it alone, and that proof is not asked for here.
        if claims.contains_key("cnf") {
            return Err(invalid);
        }
        let subject = claims.get("sub").and_then(Value::as_str).filter(|sub| !sub.is_empty() && sub.len() <= MAX_SUBJECT).ok_or(invalid)?;
        let (issued_at, expires_at) = (time(claims.get("iat")).ok_or(invalid)?, time(claims.get("exp")).ok_or(invalid)?);
        let not_before = claims.get("nbf").map(|nbf| time(Some(nbf)).ok_or(invalid)).transpose()?;
        let (now, leeway) = (self.clock.now(), time::Duration::seconds(self.config.leeway));
        if issued_at > now + leeway || not_before.is_some_and(|nbf| nbf > now + leeway) {
            return Err(invalid);
        }
        // Without leeway: a connection ends with its token, to the second.
        if expires_at <= now {
            return Err(auth::Error::Expired);
        }
        let role = claims::role(&self.config.role, claims).ok_or(auth::Error::NoRole)?;
        let username = claims::claim(claims, &self.config.username).and_then(Value::as_str).map(str::to_owned);
        Ok(Identity {
            issuer: self.config.issuer.clone(),
            issuer_name: self.config.name.clone(),
            subject: subject.to_owned(),
            username,
            role,
            scopes: claims::scopes(self.config.scopes.as_ref(), claims),
            issued_at,
            expires_at,
        })
    }
}

/// A time in seconds since 1970, which may have a fraction (RFC 7519, section 2).
fn time(value: Option<&Value>) -> Option<OffsetDateTime> {
    let seconds = value?.as_i64().or_else(|| value?.as_f64().filter(|s| s.is_finite() && s.abs() < 1e12).map(|s| s as i64))?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}
