//! The settings: a file that says whose tokens are taken, and what their claims mean here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    time::Duration,
};

use motience_certs::client;
use motience_proto::model::Role;
use motience_settings::env::{Reader, settings};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// Longest name of an issuer, in characters: names of accounts end in it.
const MAX_NAME: usize = 32;
/// Longest address of an issuer, in bytes: the width of its column.
const MAX_ISSUER: usize = 255;
/// Most issuers.
const MAX_ISSUERS: usize = 32;
/// Longest leeway, in seconds.
const MAX_LEEWAY: i64 = 300;

settings! {
    /// Settings of other issuers, as they are written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// File (JSON) with the issuers whose access tokens are taken beside our own: docs/guides/identity.md. Needs a restart.
        OIDC_ISSUERS => issuers: Option<PathBuf>;
        /// Roots (PEM) that the issuers' certificates come from. Default: those of the system.
        OIDC_CA_CERT => ca: Option<PathBuf>;
        /// How often the keys of an issuer are fetched again; a key that it takes back is believed no longer.
        OIDC_KEYS_EVERY = "15m" => every: Duration, "1s"..="1d";
        /// Shortest time between two fetches, however many tokens name keys that are not known.
        OIDC_KEYS_PAUSE = "30s" => pause: Duration, "1s"..="1h";
    }
}

/// The settings of other issuers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file.
    issuers: Option<PathBuf>,
    /// Roots of the issuers' certificates.
    pub(crate) ca: Option<PathBuf>,
    /// How often keys are fetched again.
    pub(crate) every: Duration,
    /// Shortest time between two fetches.
    pub(crate) pause: Duration,
}

/// Why the issuers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("OIDC_ISSUERS: {} cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The file is not as it should be.
    #[error("OIDC_ISSUERS: {}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The mistake.
        problem: String,
    },
    /// The roots cannot be used.
    #[error("OIDC_CA_CERT")]
    Trust(#[from] client::Error),
}

/// An issuer as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IssuerConfig {
    /// Short and unique: names of accounts end in it.
    pub(crate) name: String,
    /// The value of `iss`, to the letter.
    pub(crate) issuer: String,
    /// A token has to be for one of these.
    pub(crate) audience: Audience,
    #[serde(default = "all_algorithms")]
    pub(crate) algorithms: BTreeSet<Algorithm>,
    /// Where the keys are; absent: as the issuer's own document says.
    pub(crate) jwks_uri: Option<Address>,
    /// How far the issuer's clock may be ahead of ours, in seconds.
    #[serde(default = "default_leeway")]
    pub(crate) leeway: i64,
    pub(crate) role: RoleRule,
    /// The claim with a person's name.
    #[serde(default = "default_username")]
    pub(crate) username: String,
    /// Absent: a token allows whatever its account may do.
    pub(crate) scopes: Option<ScopeRule>,
    pub(crate) console: Option<ConsoleRule>,
}

/// A URL that JSON holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(pub(crate) Url);

impl TryFrom<String> for Address {
    type Error = url::ParseError;

    fn try_from(text: String) -> Result<Self, url::ParseError> {
        Url::parse(&text).map(Self)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Several(Vec<String>),
}

/// A signature that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Algorithm {
    RS256,
    ES256,
    EdDSA,
}

/// How a token gives a role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleRule {
    /// The claim: a name, or a JSON pointer where it lies deeper.
    pub(crate) claim: Option<String>,
    /// Values of the claim, and the role of each.
    #[serde(default)]
    pub(crate) map: BTreeMap<String, Role>,
    /// The role where no value is in the map; absent: such a token is refused.
    pub(crate) default: Option<Role>,
}

/// How a token gives scopes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopeRule {
    #[serde(default = "default_scope_claim")]
    pub(crate) claim: String,
    /// Before each of our scopes; `PREFIX` with `all` is everything that the account may do.
    #[serde(default)]
    pub(crate) prefix: String,
}

/// The console as a client of the issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsoleRule {
    pub(crate) client_id: String,
    /// As people read it.
    pub(crate) label: Option<String>,
    #[serde(default = "default_console_scope")]
    pub(crate) scope: String,
    /// More parameters of the authorisation request, such as `resource` or `audience`.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

/// How the console logs a person in at an issuer: a public client, by authorisation code with PKCE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConsoleClient {
    /// The issuer's name here.
    pub name: String,
    /// As people read it.
    pub label: String,
    /// Its address, from which the rest is found.
    pub issuer: String,
    /// The console's name there.
    pub client_id: String,
    /// Asked for.
    pub scope: String,
    /// More parameters of the requests.
    pub parameters: BTreeMap<String, String>,
}

fn all_algorithms() -> BTreeSet<Algorithm> {
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA].into()
}

fn default_leeway() -> i64 {
    60
}

fn default_username() -> String {
    "preferred_username".to_owned()
}

fn default_scope_claim() -> String {
    "scope".to_owned()
}

fn default_console_scope() -> String {
    "openid profile offline_access".to_owned()
}

impl Audience {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

impl Config {
    /// Reads the settings; the file is read by [`Issuers::new`](crate::Issuers::new).
    pub fn read_settings(reader: &mut Reader<'_>) -> Self {
        let Settings { issuers, ca, every, pause } = reader.group();
        Self { issuers, ca, every, pause }
    }

    /// The issuers of the file.
    pub(crate) fn read(&self) -> Result<Vec<IssuerConfig>, Error> {
        let Some(path) = &self.issuers else { return Ok(Vec::new()) };
        let text = fs::read_to_string(path).map_err(|cause| Error::Read { path: path.clone(), cause })?;
        parse(&text).map_err(|problem| Error::Content { path: path.clone(), problem })
    }

    /// One with this file, for tests.
    #[cfg(test)]
    pub(crate) fn of_file(path: &std::path::Path) -> Self {
        let Settings { every, pause, .. } = Settings::default();
        Self { issuers: Some(path.into()), ca: None, every, pause }
    }
}

/// The issuers of a text, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<IssuerConfig>, String> {
    let issuers: Vec<IssuerConfig> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if issuers.len() > MAX_ISSUERS {
        return Err(format!("there may be {MAX_ISSUERS} issuers at most"));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for issuer in &issuers {
        issuer.check().map_err(|problem| format!("issuer \"{}\": {problem}", issuer.name.escape_debug()))?;
        if !names.insert(&issuer.name) || !addresses.insert(&issuer.issuer) {
            return Err(format!("issuer \"{}\": name or address stands there twice", issuer.name));
        }
    }
    Ok(issuers)
}

impl IssuerConfig {
    fn check(&self) -> Result<(), String> {
        let is_name = |name: &str| {
            !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !is_name(&self.name) {
            return Err(format!("name must be 1 to {MAX_NAME} small letters, digits and hyphens"));
        }
        let url = Url::parse(&self.issuer).map_err(|e| format!("issuer: {e}"))?;
        if self.issuer.len() > MAX_ISSUER || url.query().is_some() || url.fragment().is_some() || !is_safe(&url) {
            return Err("issuer must be an https address without query, or http on this machine".to_owned());
        }
        if self.jwks_uri.as_ref().is_some_and(|keys| !is_allowed(&url, &keys.0)) {
            return Err("jwks_uri must be an https address".to_owned());
        }
        if self.audience.all().is_empty() || self.audience.all().iter().any(String::is_empty) {
            return Err("audience is missing: a token for somebody else would be taken".to_owned());
        }
        if self.algorithms.is_empty() {
            return Err("algorithms must have one of RS256, ES256, EdDSA".to_owned());
        }
        if !(0..=MAX_LEEWAY).contains(&self.leeway) {
            return Err(format!("leeway must be 0 to {MAX_LEEWAY} seconds"));
        }
        if self.role.default.is_none() && (self.role.claim.is_none() || self.role.map.is_empty()) {
            return Err("role needs a claim and a map, or a default: nobody would have one".to_owned());
        }
        if self.role.claim.is_none() && !self.role.map.is_empty() {
            return Err("role has a map and no claim".to_owned());
        }
        if self.role.default == Some(Role::Admin) {
            return Err("role: the default must not be admin, which would make everybody an operator".to_owned());
        }
        Ok(())
    }
}

/// Whether a document at this address can be trusted to be its owner's: it comes by TLS, or from this machine.
pub(crate) fn is_safe(url: &Url) -> bool {
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => return false,
    };
    url.username().is_empty() && url.password().is_none() && (url.scheme() == "https" || (url.scheme() == "http" && is_here))
}

/// Whether an issuer may have its keys at this address.
pub(crate) fn is_allowed(issuer: &Url, keys: &Url) -> bool {
    is_safe(keys) && (keys.scheme() == "https" || issuer.scheme() == "http")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(super) fn good() -> Value {
        json!({"name": "corp", "issuer": "https://id.example/realms/x", "audience": "motience", "role": {"default": "consumer"}})
    }

    #[test]
    fn what_would_let_strangers_in_is_refused() {
        let good = parse(&json!([good()]).to_string()).unwrap();
        assert_eq!((good[0].leeway, good[0].algorithms.len(), good[0].username.as_str()), (60, 3, "preferred_username"));
        for (member, value, word) in [
            ("name", json!("The Corp"), "small letters"),
            ("issuer", json!("http://id.example"), "https"),
            ("issuer", json!("https://user:pw@id.example"), "https"),
            ("issuer", json!("https://id.example?x"), "without query"),
            ("jwks_uri", json!("http://localhost/keys"), "jwks_uri"),
            ("audience", json!([]), "somebody else"),
            ("audience", json!(""), "somebody else"),
            ("algorithms", json!(["HS256"]), "HS256"),
            ("algorithms", json!(["none"]), "none"),
            ("algorithms", json!([]), "must have one"),
            ("leeway", json!(301), "300"),
            ("leeway", json!(-1), "300"),
            ("role", json!({"default": "admin"}), "everybody"),
            ("role", json!({}), "nobody"),
            ("role", json!({"map": {"a": "admin"}}), "nobody"),
            ("role", json!({"default": "consumer", "map": {"a": "admin"}}), "no claim"),
            ("role", json!({"default": "god"}), "god"),
            ("audiance", json!("motience"), "audiance"),
        ] {
            let mut spoilt = super::tests::good();
            spoilt[member] = value;
            let problem = parse(&json!([spoilt]).to_string()).unwrap_err();
            assert!(problem.contains(word), "{member}: {problem}");
        }
        let twice = parse(&json!([super::tests::good(), super::tests::good()]).to_string()).unwrap_err();
        assert!(twice.contains("twice"), "{twice}");
        for here in ["http://localhost:3000", "http://127.0.0.1:3000/oidc", "http://[::1]"] {
            let mut local = super::tests::good();
            local["issuer"] = here.into();
            parse(&json!([local]).to_string()).unwrap();
        }
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("issuers.json");
        assert!(Config::of_file(&path).read().unwrap_err().to_string().contains("issuers.json"));
        fs::write(&path, "{}").unwrap();
        assert!(Config::of_file(&path).read().unwrap_err().to_string().contains("issuers.json"));
    }
}
