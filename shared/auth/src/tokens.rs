//! Access and refresh tokens: JSON Web Tokens, signed by JWT_SECRET (HS256) or by a key of JWT_KEYS (EdDSA, ES256).
//!
//! A token names its key (`kid`), and the key decides by which algorithm it is checked. Tokens of JWT_SECRET stay good where there are keys, so
//! that keys come into use without ending a session; they name no audience, which nodes from before there were keys would refuse.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation, decode, decode_header, encode};
use motience_proto::model::{LogId, LogKey, Role, User, UserId};
use motience_runtime::clock::Clock;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Config, Error, Grant, PublicKey, Scope, Scopes, SigningKeyError, device_family, grant::DEVICE_FAMILY, random, signing::SigningKeys,
};

/// Longest token that is looked at, in bytes. Ours are a tenth of it, unless the account's names are very long.
pub const MAX_TOKEN: usize = 4096;

/// The algorithm of JWT_SECRET, whatever a token's header says.
const ALGORITHM: Algorithm = Algorithm::HS256;

const ISSUER: &str = "motience";

/// How long a device has to sign a nonce.
pub const NONCE_TTL: Duration = Duration::from_secs(60);

/// How far the clocks of the nodes may differ, in seconds: a token may be from so far in the future.
const CLOCK_LEEWAY: i64 = 60;

/// Issues and checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    /// By JWT_SECRET, with the id that its tokens name it by.
    encoding: EncodingKey,
    decoding: DecodingKey,
    secret_id: String,
    validation: Validation,
    folder: Option<PathBuf>,
    keys: SigningKeys,
    audience: String,
    access_ttl: Duration,
    refresh_ttl: Duration,
    clock: Clock,
}

/// Tokens of a login or a refresh.
#[derive(Clone)]
pub struct Pair {
    /// For every call.
    pub access_token: String,
    /// For the next pair.
    pub refresh_token: String,
    /// Life of the access token, in seconds.
    pub expires_in_s: u64,
    /// Row of the refresh token, which must be stored before the token is handed out.
    pub refresh: RefreshClaims,
}

/// Content of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshClaims {
    /// Its `jti`: what the store knows it by.
    pub id: String,
    /// The login it goes back to.
    pub family: String,
    /// Account of the token.
    pub user: UserId,
    /// The account's log.
    pub log: LogId,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

impl Tokens {
    /// Tokens with these settings, by this clock. Reads the keys.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, SigningKeyError> {
        let secret = config.secret.expose_secret().as_bytes();
        let mut validation = Validation::new(ALGORITHM);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // The library only knows the machine's clock; expiry is checked against ours below.
        validation.validate_exp = false;
        // Whether there has to be one depends on the key.
        validation.validate_aud = false;
        let tokens = Self(Arc::new(Inner {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            secret_id: secret_id(secret),
            validation,
            folder: config.keys.clone(),
            keys: SigningKeys::default(),
            audience: config.audience.clone(),
            access_ttl: config.access_ttl,
            refresh_ttl: config.refresh_ttl,
            clock,
        }));
        tokens.read_keys()?;
        Ok(tokens)
    }

    /// Reads the keys of JWT_KEYS again. Where they cannot be read, those that were read before stay.
    pub fn read_keys(&self) -> Result<(), SigningKeyError> {
        self.0.folder.as_deref().map_or(Ok(()), |folder| self.0.keys.read(folder))
    }

    /// The public halves of the keys, for whoever checks our tokens without asking us.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.0.keys.public()
    }

    /// A new pair for `user` in `family`, which is a new [`random_id`](super::random_id) at a login.
    pub fn issue(&self, user: &User, family: &str) -> Result<Pair, Error> {
        self.issue_as(user, family, &random::id(), self.0.clock.now())
    }

    /// The pair whose refresh token has this id, issued at this time: the same each time, as long as the account is the same.
    pub fn issue_as(&self, user: &User, family: &str, id: &str, at: OffsetDateTime) -> Result<Pair, Error> {
        let now = at.unix_timestamp();
        let claims = |typ, jti: String, ttl: Duration| Claims {
            sub: user.id.to_string(),
            username: user.username.clone(),
            role: user.role,
            device_id: user.device_id.clone(),
            strict_device: user.strict_device,
            log: Some(user.log),
            typ,
            fam: family.to_owned(),
            jti,
            iat: now,
            nbf: None,
            exp: now.saturating_add_unsigned(ttl.as_secs()),
            iss: ISSUER.to_owned(),
            aud: None,
        };
        let access = claims(Kind::Access, format!("{id}.access"), self.0.access_ttl);
        let refresh = claims(Kind::Refresh, id.to_owned(), self.0.refresh_ttl);
        Ok(Pair {
            expires_in_s: u64::try_from(access.exp - self.0.clock.now().unix_timestamp()).unwrap_or(0),
            access_token: self.sign(access)?,
            refresh_token: self.sign(refresh.clone())?,
            refresh: refresh.try_into()?,
        })
    }

    /// A token for one device of a producer, got by the credential `id`; and the seconds for which it is good. Nothing renews it but that
    /// credential.
    pub fn issue_device(&self, user: &User, device: &str, id: &str) -> Result<(String, u64), Error> {
        let now = self.0.clock.now().unix_timestamp();
        let ttl = self.0.access_ttl.as_secs();
        let claims = Claims {
            sub: user.id.to_string(),
            username: user.username.clone(),
            role: Role::Producer,
            device_id: Some(device.to_owned()),
            strict_device: true,
            log: Some(user.log),
            typ: Kind::Access,
            fam: device_family(id),
            jti: random::id(),
            iat: now,
            nbf: None,
            exp: now.saturating_add_unsigned(ttl),
            iss: ISSUER.to_owned(),
            aud: None,
        };
        Ok((self.sign(claims)?, ttl))
    }

    /// Grant of a device of a producer that has shown a certificate for its credential `id`, good until `end`.
    pub fn device_grant(&self, user: &User, device: &str, id: &str, end: OffsetDateTime) -> Grant {
        Grant {
            user: user.id,
            username: user.username.clone(),
            role: Role::Producer,
            device_id: Some(device.to_owned()),
            strict_device: true,
            log: user.log,
            family: device_family(id),
            scopes: Scopes::only([Scope::Publish]),
            issued_at: self.0.clock.now(),
            expires_at: end,
        }
    }

    /// A nonce for a device to sign, and the seconds for which it is good.
    pub fn nonce(&self) -> Result<(String, u64), Error> {
        let exp = self.0.clock.now().unix_timestamp().saturating_add_unsigned(NONCE_TTL.as_secs());
        let claims = Nonce { nonce: random::id(), exp, iss: ISSUER.to_owned() };
        let nonce = encode(&Header::new(ALGORITHM), &claims, &self.0.encoding).map_err(|_| Error::Internal)?;
        Ok((nonce, NONCE_TTL.as_secs()))
    }

    /// The id of a nonce that is one of ours and still good. Whether it was used before is for the log to say, where all nodes meet.
    pub fn check_nonce(&self, nonce: &str) -> Result<String, Error> {
        if nonce.len() > MAX_TOKEN {
            return Err(Error::Invalid);
        }
        let mut validation = self.0.validation.clone();
        validation.set_required_spec_claims(&["exp", "iss"]);
        let claims = decode::<Nonce>(nonce, &self.0.decoding, &validation).map_err(|_| Error::Invalid)?.claims;
        if self.0.clock.now() >= time(claims.exp)? { Err(Error::Expired) } else { Ok(claims.nonce) }
    }

    /// Grant of an access token that is valid now.
    pub fn access(&self, token: &str) -> Result<Grant, Error> {
        self.check(token, Kind::Access)?.try_into()
    }

    /// Content of a refresh token. Only the store knows whether it is still good.
    pub fn refresh(&self, token: &str) -> Result<RefreshClaims, Error> {
        self.check(token, Kind::Refresh)?.try_into()
    }

    fn sign(&self, claims: Claims) -> Result<String, Error> {
        let token = match self.0.keys.signing(self.0.clock.now()) {
            None => encode(&header(ALGORITHM, &self.0.secret_id), &claims, &self.0.encoding),
            Some(key) => {
                let claims = Claims { aud: Some(Audience::One(self.0.audience.clone())), ..claims };
                encode(&header(key.algorithm, &key.id), &claims, &key.encoding)
            }
        };
        let token = token.map_err(|_| Error::Internal)?;
        // A token that we would refuse must not be handed out.
        if token.len() > MAX_TOKEN { Err(Error::Internal) } else { Ok(token) }
    }

    /// Checks the signature by the key that the token names, and the audience that the tokens of a key have.
    fn verify(&self, token: &str) -> Result<TokenData<Claims>, Error> {
        let named = if self.0.keys.are_none() { None } else { decode_header(token).map_err(|_| Error::Invalid)?.kid };
        let decoded = match named.and_then(|id| self.0.keys.find(&id)) {
            None => decode::<Claims>(token, &self.0.decoding, &self.0.validation),
            Some(key) => {
                let mut validation = self.0.validation.clone();
                validation.algorithms = vec![key.algorithm];
                validation.validate_aud = true;
                validation.set_audience(std::slice::from_ref(&self.0.audience));
                validation.required_spec_claims.insert("aud".to_owned());
                decode(token, &key.decoding, &validation)
            }
        };
        decoded.map_err(|_| Error::Invalid)
    }

    fn check(&self, token: &str, kind: Kind) -> Result<Claims, Error> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Invalid);
        }
        let decoded = self.verify(token)?;
        let claims = decoded.claims;
        // A header that must be understood is not (RFC 7515, section 4.1.11): none is.
        if decoded.header.crit.is_some() {
            return Err(Error::Invalid);
        }
        let latest = self.0.clock.now().unix_timestamp().saturating_add(CLOCK_LEEWAY);
        if claims.iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Error::Invalid);
        }
        if claims.typ != kind {
            return Err(Error::WrongKind);
        }
        if self.0.clock.now() >= time(claims.exp)? {
            return Err(Error::Expired);
        }
        Ok(claims)
    }
}

impl fmt::Debug for Tokens {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("access_ttl", &self.0.access_ttl).field("refresh_ttl", &self.0.refresh_ttl).finish_non_exhaustive()
    }
}

fn header(algorithm: Algorithm, key: &str) -> Header {
    Header { kid: Some(key.to_owned()), ..Header::new(algorithm) }
}

/// The id of a secret, which tells it from others and does not tell it.
fn secret_id(secret: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"motience: id of the key of tokens");
    tag.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Access,
    Refresh,
}

/// Content of a nonce: none of the claims that make a token.
#[derive(Serialize, Deserialize)]
struct Nonce {
    nonce: String,
    exp: i64,
    iss: String,
}

/// The receivers of a token (RFC 7519, section 4.1.3).
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    sub: String,
    username: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    strict_device: bool,
    /// Tokens of the first release name none: their accounts have the log that bears their number.
    #[serde(default)]
    log: Option<LogId>,
    typ: Kind,
    fam: String,
    jti: String,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
}

impl Claims {
    fn account(&self) -> Result<(UserId, LogId), Error> {
        let user: UserId = self.sub.parse().map_err(|_| Error::Invalid)?;
        Ok((user, self.log.unwrap_or(LogKey::numbered(user.producer()).log)))
    }
}

impl TryFrom<Claims> for Grant {
    type Error = Error;

    fn try_from(claims: Claims) -> Result<Self, Error> {
        let (user, log) = claims.account()?;
        // A device sends records, and neither reads nor manages the account.
        let scopes = if claims.fam.starts_with(DEVICE_FAMILY) { Scopes::only([Scope::Publish]) } else { Scopes::all() };
        Ok(Self {
            user,
            log,
            username: claims.username,
            role: claims.role,
            device_id: claims.device_id,
            strict_device: claims.strict_device,
            family: claims.fam,
            scopes,
            issued_at: time(claims.iat)?,
            expires_at: time(claims.exp)?,
        })
    }
}

impl TryFrom<Claims> for RefreshClaims {
    type Error = Error;

    fn try_from(claims: Claims) -> Result<Self, Error> {
        let (user, log) = claims.account()?;
        Ok(Self { id: claims.jti, family: claims.fam, user, log, expires_at: time(claims.exp)? })
    }
}

fn time(seconds: i64) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| Error::Invalid)
}

#[cfg(test)]
mod tests;
