//! Access and refresh tokens: JSON Web Tokens signed with HS256.

use std::{fmt, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use motience_proto::model::{LogId, LogKey, Role, User, UserId, record::Defaults};
use motience_runtime::clock::Clock;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Config, Error, Scope, Scopes, random};

/// Longest token that is looked at, in bytes. Ours are a tenth of it, unless the account's names are very long.
pub const MAX_TOKEN: usize = 4096;

/// The algorithm, whatever a token's header says.
const ALGORITHM: Algorithm = Algorithm::HS256;

const ISSUER: &str = "motience";

/// Families of tokens that devices got by keys of their own begin so. A login's are hexadecimal digits.
const DEVICE_FAMILY: &str = "device:";

/// How long a device has to sign a nonce.
pub const NONCE_TTL: Duration = Duration::from_secs(60);

/// How far the clocks of the nodes may differ, in seconds: a token may be from so far in the future.
const CLOCK_LEEWAY: i64 = 60;

/// Issues and checks tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
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

/// Grant of an access token or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Account of the token.
    pub user: UserId,
    /// The account's name.
    pub username: String,
    /// Role of the account.
    pub role: Role,
    /// The device the account was registered with, if any.
    pub device_id: Option<String>,
    /// Whether it may speak for that device only.
    pub strict_device: bool,
    /// The account's log: not that of whoever had the number `user` before, or has it since.
    pub log: LogId,
    /// The login it goes back to; of a key, its [`key_family`].
    pub family: String,
    /// How much of what its account may do it allows.
    pub scopes: Scopes,
    /// When it was issued, to the second.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// The family of a key's grants: revoked like a login's.
pub fn key_family(id: &str) -> String {
    format!("key:{id}")
}

impl Grant {
    /// The device id of records that name none: the account's device, or the account itself.
    pub fn default_device(&self) -> &str {
        self.device_id.as_deref().unwrap_or(&self.username)
    }

    /// The device that it may speak for, where that is one only.
    pub fn only_device(&self) -> Option<&str> {
        self.device_id.as_deref().filter(|_| self.strict_device)
    }

    /// The device whose own key it was got by.
    pub fn own_device(&self) -> Option<&str> {
        self.only_device().filter(|_| self.family.starts_with(DEVICE_FAMILY))
    }

    /// Whether it goes back to a login by password, and not to a key: a login's family is nothing but hexadecimal digits.
    pub fn is_by_password(&self) -> bool {
        !self.family.contains(':')
    }

    /// Members that complete its records at `now`.
    pub fn defaults(&self, now: OffsetDateTime) -> Defaults<'_> {
        Defaults { device_id: self.default_device(), strict: self.only_device().is_some(), now }
    }

    /// The log that the token gives a producer the right to write.
    pub fn log_key(&self) -> LogKey {
        LogKey { producer: self.user.producer(), log: self.log }
    }

    /// Whether the other is a token of this very account, in the same role and for the same device, where it is for one only.
    pub fn is_of_same_account(&self, other: &Self) -> bool {
        let subject = |grant: &Self| (grant.user, grant.log, grant.role);
        subject(self) == subject(other) && self.only_device() == other.only_device()
    }
}

/// The family of the tokens that a device gets by the credential `id`.
pub fn device_family(id: &str) -> String {
    format!("{DEVICE_FAMILY}{id}")
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
    /// Tokens with these settings, by this clock.
    pub fn new(config: &Config, clock: Clock) -> Self {
        let secret = config.secret.expose_secret().as_bytes();
        let mut validation = Validation::new(ALGORITHM);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // The library only knows the machine's clock; expiry is checked against ours below.
        validation.validate_exp = false;
        Self(Arc::new(Inner {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            access_ttl: config.access_ttl,
            refresh_ttl: config.refresh_ttl,
            clock,
        }))
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
        };
        let access = claims(Kind::Access, format!("{id}.access"), self.0.access_ttl);
        let refresh = claims(Kind::Refresh, id.to_owned(), self.0.refresh_ttl);
        Ok(Pair {
            access_token: self.sign(&access)?,
            refresh_token: self.sign(&refresh)?,
            expires_in_s: u64::try_from(access.exp - self.0.clock.now().unix_timestamp()).unwrap_or(0),
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
        };
        Ok((self.sign(&claims)?, ttl))
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

    fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let token = encode(&Header::new(ALGORITHM), claims, &self.0.encoding).map_err(|_| Error::Internal)?;
        // A token that we would refuse must not be handed out.
        if token.len() > MAX_TOKEN { Err(Error::Internal) } else { Ok(token) }
    }

    fn check(&self, token: &str, kind: Kind) -> Result<Claims, Error> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Invalid);
        }
        let decoded = decode::<Claims>(token, &self.0.decoding, &self.0.validation).map_err(|_| Error::Invalid)?;
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

#[derive(Serialize, Deserialize)]
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use motience_runtime::clock::Manual;
    use motience_settings::env::Env;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const START: i64 = 1_738_150_500;

    fn tokens() -> (Tokens, Manual) {
        let (clock, hand) = Clock::manual(OffsetDateTime::from_unix_timestamp(START).unwrap());
        let config = Config::from_env(&Env::from_pairs([("JWT_SECRET", SECRET), ("MOTIENCE_ENV", "production")])).unwrap();
        (Tokens::new(&config, clock), hand)
    }

    fn user() -> User {
        User {
            id: UserId(42),
            username: "producer1".into(),
            role: Role::Producer,
            device_id: Some("rpi_001".into()),
            strict_device: true,
            visibility: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            log: LogId(1 << 40),
        }
    }

    /// The claims of a good access token, to be spoilt.
    fn claims() -> Value {
        json!({"sub": "42", "username": "producer1", "role": "producer", "typ": "access", "fam": "f", "jti": "j",
            "iat": START, "exp": START + 60, "iss": "motience"})
    }

    fn signed(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn base64(text: &str) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits: String = text.bytes().map(|b| format!("{b:08b}")).collect();
        bits.as_bytes()
            .chunks(6)
            .map(|six| {
                let six = std::str::from_utf8(six).unwrap();
                char::from(DIGITS[usize::from_str_radix(&format!("{six:0<6}"), 2).unwrap()])
            })
            .collect()
    }

    #[test]
    fn a_pair_says_who_it_is_for() {
        let (tokens, _hand) = tokens();
        let pair = tokens.issue(&user(), "family").unwrap();
        let grant = tokens.access(&pair.access_token).unwrap();
        assert_eq!((grant.user, grant.log, grant.role), (UserId(42), LogId(1 << 40), Role::Producer));
        assert_eq!((grant.username.as_str(), grant.device_id.as_deref(), grant.family.as_str()), ("producer1", Some("rpi_001"), "family"));
        assert_eq!((grant.only_device(), grant.defaults(OffsetDateTime::UNIX_EPOCH).strict), (Some("rpi_001"), true));
        assert_eq!((grant.issued_at.unix_timestamp(), grant.expires_at.unix_timestamp()), (START, START + 3600));
        assert_eq!(pair.expires_in_s, 3600);
        let refresh = tokens.refresh(&pair.refresh_token).unwrap();
        assert_eq!(refresh, pair.refresh);
        assert_eq!((refresh.user, refresh.log, refresh.family.as_str()), (UserId(42), LogId(1 << 40), "family"));
        assert_eq!(refresh.expires_at.unix_timestamp(), START + 604_800);
        assert_ne!(tokens.issue(&user(), "family").unwrap().refresh.id, refresh.id);
    }

    #[test]
    fn each_kind_is_only_good_for_its_use() {
        let (tokens, _hand) = tokens();
        let pair = tokens.issue(&user(), "f").unwrap();
        assert_eq!(tokens.access(&pair.refresh_token), Err(Error::WrongKind));
        assert_eq!(tokens.refresh(&pair.access_token), Err(Error::WrongKind));
    }

    #[test]
    fn tokens_end_to_the_second() {
        let (tokens, hand) = tokens();
        let pair = tokens.issue(&user(), "f").unwrap();
        hand.advance(Duration::from_millis(3_599_999));
        assert!(tokens.access(&pair.access_token).is_ok());
        hand.advance(Duration::from_millis(1));
        assert_eq!(tokens.access(&pair.access_token), Err(Error::Expired));
        assert!(tokens.refresh(&pair.refresh_token).is_ok());
        hand.advance(Duration::from_secs(604_800));
        assert_eq!(tokens.refresh(&pair.refresh_token), Err(Error::Expired));
    }

    #[test]
    fn a_token_without_a_log_is_of_an_account_from_before_there_were_log_ids() {
        let (tokens, _hand) = tokens();
        let grant = tokens.access(&signed(&claims(), Algorithm::HS256, SECRET)).unwrap();
        assert_eq!(grant.log_key(), LogKey::numbered(UserId(42).producer()));
    }

    #[test]
    fn another_algorithm_is_refused() {
        let (tokens, _hand) = tokens();
        let good = signed(&claims(), Algorithm::HS256, SECRET);
        assert!(tokens.access(&good).is_ok());
        assert_eq!(tokens.access(&signed(&claims(), Algorithm::HS512, SECRET)), Err(Error::Invalid));
        let payload = base64(&claims().to_string());
        let signature = good.rsplit('.').next().unwrap();
        for alg in ["none", "None", "RS256", "ES256", "HS384"] {
            let header = base64(&json!({"alg": alg, "typ": "JWT"}).to_string());
            for token in [format!("{header}.{payload}."), format!("{header}.{payload}.{signature}"), format!("{header}.{payload}")] {
                assert_eq!(tokens.access(&token), Err(Error::Invalid), "{alg}");
            }
        }
    }

    #[test]
    fn foreign_and_tampered_tokens_are_refused() {
        let (tokens, _hand) = tokens();
        let good = signed(&claims(), Algorithm::HS256, SECRET);
        let parts: Vec<&str> = good.split('.').collect();
        let mut richer = claims();
        richer["role"] = "admin".into();
        let tampered = format!("{}.{}.{}", parts[0], base64(&richer.to_string()), parts[2]);
        let foreign = signed(&claims(), Algorithm::HS256, "another secret of thirty-two bytes");
        let long = format!("{good}{}", "x".repeat(MAX_TOKEN));
        for token in ["", ".", "..", "a.b.c", "Bearer x", &good[1..], &tampered, &foreign, &long] {
            assert_eq!(tokens.access(token), Err(Error::Invalid));
        }
    }

    #[test]
    fn every_claim_is_needed() {
        let (tokens, _hand) = tokens();
        for (name, wrong) in
            [("iss", json!("other")), ("sub", json!("root")), ("exp", json!("soon")), ("typ", json!("id")), ("role", json!("god"))]
        {
            let mut spoilt = claims();
            spoilt[name] = wrong;
            assert_eq!(tokens.access(&signed(&spoilt, Algorithm::HS256, SECRET)), Err(Error::Invalid), "{name}");
        }
        for name in ["iss", "sub", "exp", "iat", "typ", "fam", "jti", "role", "username"] {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(name);
            assert_eq!(tokens.access(&signed(&without, Algorithm::HS256, SECRET)), Err(Error::Invalid), "{name}");
        }
        let mut endless = claims();
        endless["exp"] = json!(i64::MAX);
        assert_eq!(tokens.access(&signed(&endless, Algorithm::HS256, SECRET)), Err(Error::Invalid));
    }

    #[test]
    fn tokens_of_the_future_and_headers_that_must_be_understood_are_refused() {
        for name in ["iat", "nbf"] {
            let (tokens, hand) = tokens();
            let mut later = claims();
            later[name] = (START + CLOCK_LEEWAY + 1).into();
            later["exp"] = (START + 3600).into();
            let token = signed(&later, Algorithm::HS256, SECRET);
            assert_eq!(tokens.access(&token), Err(Error::Invalid), "{name}");
            later[name] = (START + CLOCK_LEEWAY).into();
            assert!(tokens.access(&signed(&later, Algorithm::HS256, SECRET)).is_ok(), "{name}");
            hand.advance(Duration::from_secs(1));
            assert!(tokens.access(&token).is_ok(), "{name}: its time has come");
        }
        let (tokens, _hand) = tokens();
        for crit in [vec![], vec!["b64".to_owned()], vec!["exp".to_owned()]] {
            let mut header = Header::new(Algorithm::HS256);
            header.crit = Some(crit);
            let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
            assert_eq!(tokens.access(&token), Err(Error::Invalid));
        }
    }

    #[test]
    fn a_device_s_token_is_for_that_device_alone() {
        let (tokens, hand) = tokens();
        let account = User { device_id: None, strict_device: false, ..user() };
        let (token, life) = tokens.issue_device(&account, "pump 7", "c1").unwrap();
        let grant = tokens.access(&token).unwrap();
        assert_eq!((grant.only_device(), grant.own_device(), grant.role, life), (Some("pump 7"), Some("pump 7"), Role::Producer, 3600));
        assert_eq!((grant.family, grant.log), (device_family("c1"), LogId(1 << 40)));
        let login = tokens.access(&tokens.issue(&account, &random::id()).unwrap().access_token).unwrap();
        let other = tokens.access(&tokens.issue_device(&account, "pump 8", "c2").unwrap().0).unwrap();
        let grant = tokens.access(&token).unwrap();
        assert_eq!(login.own_device(), None);
        assert!(!grant.is_of_same_account(&login) && !login.is_of_same_account(&grant) && !grant.is_of_same_account(&other));
        assert!(tokens.access(&tokens.issue(&user(), "f").unwrap().access_token).unwrap().own_device().is_none(), "strict, by a password");
        hand.advance(Duration::from_secs(3600));
        assert_eq!(tokens.access(&token), Err(Error::Expired));
    }

    #[test]
    fn a_nonce_is_good_for_a_minute_and_is_no_token() {
        let (tokens, hand) = tokens();
        let (nonce, life) = tokens.nonce().unwrap();
        assert_eq!(life, 60);
        assert_ne!(tokens.check_nonce(&nonce).unwrap(), tokens.check_nonce(&tokens.nonce().unwrap().0).unwrap());
        assert_eq!(tokens.access(&nonce), Err(Error::Invalid));
        let pair = tokens.issue(&user(), "f").unwrap();
        for wrong in [
            pair.access_token.as_str(),
            "",
            &nonce[1..],
            &signed(&json!({"nonce": "n", "exp": START + 60, "iss": "x"}), Algorithm::HS256, SECRET),
        ] {
            assert_eq!(tokens.check_nonce(wrong), Err(Error::Invalid));
        }
        hand.advance(Duration::from_secs(60));
        assert_eq!(tokens.check_nonce(&nonce), Err(Error::Expired));
    }

    #[test]
    fn debug_shows_no_key() {
        let (tokens, _hand) = tokens();
        assert!(!format!("{tokens:?}").contains(SECRET));
    }
}
