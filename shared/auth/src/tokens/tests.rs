use serde_json::{Value, json};

use super::*;
use crate::key_file;
use motience_certs::device_key::{Algorithm as DeviceAlgorithm, DeviceKey};
use motience_runtime::clock::Manual;
use motience_settings::env::Env;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const START: i64 = 1_738_150_500;

fn tokens() -> (Tokens, Manual) {
    let (clock, hand) = Clock::manual(OffsetDateTime::from_unix_timestamp(START).unwrap());
    let config = Config::from_env(&Env::from_pairs([("JWT_SECRET", SECRET), ("MOTIENCE_ENV", "production")])).unwrap();
    (Tokens::new(&config, clock).unwrap(), hand)
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

/// As a node of the release before checks tokens: without keys, and without an audience.
fn former_release_takes(token: &str) -> bool {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.set_issuer(&["motience"]);
    validation.set_required_spec_claims(&["exp", "iss", "sub"]);
    decode::<Value>(token, &DecodingKey::from_secret(SECRET.as_bytes()), &validation).is_ok()
}

#[test]
fn a_token_names_its_key_and_stays_good_for_nodes_of_the_release_before() {
    let (tokens, _hand) = tokens();
    let pair = tokens.issue(&user(), "f").unwrap();
    let id = decode_header(&pair.access_token).unwrap().kid.unwrap();
    assert_eq!((id.len(), id.contains(SECRET)), (16, false));
    assert!(former_release_takes(&pair.access_token) && former_release_takes(&pair.refresh_token));
    assert!(tokens.public_keys().is_empty(), "a secret has no public half");
}

#[test]
fn a_key_takes_over_at_its_time_and_ends_no_session() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(OffsetDateTime::from_unix_timestamp(START).unwrap());
    let pairs = [("JWT_SECRET", SECRET), ("JWT_KEYS", dir.path().to_str().unwrap()), ("JWT_AUDIENCE", "us")];
    let config = Config::from_env(&Env::from_pairs(pairs)).unwrap();
    let (tokens, other_node) = (Tokens::new(&config, clock.clone()).unwrap(), Tokens::new(&config, clock.clone()).unwrap());
    let issue = || tokens.issue(&user(), "f").unwrap();
    let mut pairs = vec![issue()];
    for (after, algorithm) in [(60, DeviceAlgorithm::Ed25519), (120, DeviceAlgorithm::P256)] {
        let file = key_file(dir.path(), clock.now() + Duration::from_secs(60)).unwrap();
        std::fs::write(file.path, DeviceKey::generate(algorithm).unwrap().pem()).unwrap();
        tokens.read_keys().unwrap();
        other_node.read_keys().unwrap();
        pairs.push(issue());
        hand.advance(Duration::from_secs(60));
        pairs.push(issue());
        for pair in &pairs {
            assert!(other_node.access(&pair.access_token).is_ok() && other_node.refresh(&pair.refresh_token).is_ok(), "after {after} s");
        }
    }
    let by = |pair: &Pair| decode_header(&pair.access_token).unwrap().alg;
    let algorithms: Vec<Algorithm> = pairs.iter().map(by).collect();
    use Algorithm::{ES256, EdDSA, HS256};
    assert_eq!(algorithms, [HS256, HS256, EdDSA, EdDSA, ES256], "a key that was just put there does not sign yet");
    assert_eq!(tokens.public_keys().len(), 2);
    let foreign = Config { audience: "them".to_owned(), ..config.clone() };
    let foreign = Tokens::new(&foreign, clock).unwrap();
    assert_eq!(foreign.access(&pairs[2].access_token), Err(Error::Invalid), "of another audience");
    assert!(foreign.access(&pairs[0].access_token).is_ok(), "names none");
    // The public half of a key is no secret by which HS256 could be signed.
    let key = tokens.0.keys.signing(tokens.0.clock.now()).unwrap();
    let mut forged = Header::new(Algorithm::HS256);
    forged.kid = Some(key.id.clone());
    let public = serde_json::to_vec(&tokens.public_keys()[1]).unwrap();
    for secret in [public.as_slice(), SECRET.as_bytes()] {
        let token = encode(&forged, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(tokens.access(&token), Err(Error::Invalid), "HS256 by the id of a key");
    }
}
