//! Tokens: logging in, refreshing, and keeping the pair of an account.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use motience_certs::{
    Trust,
    client::{distrusting_config, tcp_config},
    device_key::login_text,
};
use motience_proto::model::{DeviceId, Role, UserId};
use reqwest::{
    RequestBuilder, StatusCode, Url,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
    redirect,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::client::explain;

mod account;
mod identity;
mod kept;
mod key;

pub use account::{Account, Credentials};
pub use identity::{Certificate, Enrolment, Home, Identity};
pub use key::Key;
pub use motience_certs::device_key::Algorithm;

/// Time limit of one request, from connecting to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer read, in bytes: two tokens and a little.
const MAX_ANSWER: usize = 64 * 1024;
/// The longest `Retry-After` that is honoured; a wrong header must not silence a device for years.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The service itself knows no such account or password, or the role does not fit. Until somebody changes that, it says so again.
    #[error("the login was refused ({status}): {reason}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// The name is taken (registration only).
    #[error("the username is taken")]
    Taken,
    /// Too many attempts.
    #[error("the server asks to wait {} s before the next login", .0.as_secs())]
    RateLimited(Duration),
    /// The server is away or failing; worth another try.
    #[error("the login service is not available: {0}")]
    Unavailable(String),
    /// The settings cannot work.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether another try with the same settings can succeed.
    pub fn is_worth_retrying(&self) -> bool {
        matches!(self, Self::RateLimited(_) | Self::Unavailable(_))
    }
}

/// A pair of tokens.
#[derive(Clone, Debug, Deserialize)]
pub struct Tokens {
    /// For connecting.
    #[serde(rename = "access_token")]
    pub access: SecretString,
    /// For a new pair; works once.
    #[serde(rename = "refresh_token")]
    pub refresh: SecretString,
    /// Seconds for which the access token is good.
    pub expires_in: u64,
    /// The account.
    pub user_id: UserId,
    /// Its role.
    pub role: Role,
}

/// The authentication service.
#[derive(Clone, Debug)]
pub struct Auth {
    http: reqwest::Client,
    base: String,
    /// For people, without what may be secret in it.
    place: String,
}

impl Auth {
    /// `url` is the service's base: `http://host:3001` or `https://host/api/auth`.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, Error> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let place = parsed.as_ref().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
        let tls = match parsed {
            Some(url) if url.scheme() == "https" => tcp_config(trust, &[b"http/1.1"]).map_err(|e| Error::Config(e.to_string()))?,
            Some(_) => distrusting_config(),
            None => return Err(Error::Config(format!("an authentication URL is written like http://host:3001, not {url:?}"))),
        };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(TIMEOUT)
            // A password is not carried to where a redirect points.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("motience-device/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::Config(describe(&e)))?;
        Ok(Self { http, base: url.trim_end_matches('/').to_owned(), place })
    }

    /// Logs in.
    pub async fn login(&self, username: &str, password: &SecretString) -> Result<Tokens, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            username: &'a str,
            password: &'a str,
        }
        self.answer(self.post("login").json(&Body { username, password: password.expose_secret() })).await
    }

    /// Trades a refresh token for a new pair.
    pub async fn refresh(&self, refresh: &SecretString) -> Result<Tokens, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            refresh_token: &'a str,
        }
        self.answer(self.post("refresh").json(&Body { refresh_token: refresh.expose_secret() })).await
    }

    /// Makes an account.
    pub async fn register(&self, username: &str, password: &SecretString, role: Role, device_id: Option<&str>) -> Result<UserId, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            username: &'a str,
            password: &'a str,
            role: Role,
            #[serde(skip_serializing_if = "Option::is_none")]
            device_id: Option<&'a str>,
        }
        #[derive(Deserialize)]
        struct Answer {
            id: UserId,
        }
        let body = Body { username, password: password.expose_secret(), role, device_id };
        match self.answer::<Answer>(self.post("register").json(&body)).await {
            Ok(made) => Ok(made.id),
            Err(Error::Refused { status: 409, .. }) => Err(Error::Taken),
            Err(error) => Err(error),
        }
    }

    /// Enrols a key by a token. `request`: signed by the key. `named`: the device, where the token names none.
    async fn enrol(&self, token: &str, request: &str, named: Option<&DeviceId>) -> Result<Certificate, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            token: &'a str,
            csr: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            device_id: Option<&'a DeviceId>,
        }
        self.answer(self.post("devices/enrol").json(&Body { token, csr: request, device_id: named })).await
    }

    /// The next certificate for a key that is enrolled.
    async fn renew_certificate(&self, request: &str) -> Result<Certificate, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            csr: &'a str,
        }
        self.answer(self.post("devices/renew").json(&Body { csr: request })).await
    }

    /// Logs a device in by its key: a token, and the seconds for which it is good.
    async fn login_by_key(&self, identity: &Identity) -> Result<(SecretString, u64), Error> {
        #[derive(Deserialize)]
        struct Challenge {
            nonce: String,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            credential: &'a str,
            nonce: &'a str,
            signature: String,
        }
        #[derive(Deserialize)]
        struct Token {
            access_token: SecretString,
            expires_in: u64,
        }
        let Challenge { nonce } = self.answer(self.post("devices/challenge")).await?;
        let credential = identity.certificate.credential.as_str();
        let signature = STANDARD.encode(identity.sign(&login_text(&nonce, credential))?);
        let token: Token = self.answer(self.post("devices/token").json(&Body { credential, nonce: &nonce, signature })).await?;
        Ok((token.access_token, token.expires_in))
    }

    fn post(&self, operation: &str) -> RequestBuilder {
        self.http.post(format!("{}/{operation}", self.base))
    }

    async fn answer<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder) -> Result<T, Error> {
        let away = |what: &str| Error::Unavailable(format!("{}: {what}", self.place));
        let mut response = request.send().await.map_err(|e| away(&describe(&e)))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let wait = header(RETRY_AFTER).and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
        let (kind, location) = (header(CONTENT_TYPE).unwrap_or_default(), header(LOCATION));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| away(&describe(&e)))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(away("the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|_| away("the answer is not what a Motience server says; is there a captive portal?"));
        }
        let problem = Problem::read(&kind, status, &body);
        Err(match (status, problem, wait) {
            (StatusCode::TOO_MANY_REQUESTS, _, _) => Error::RateLimited(wait.unwrap_or(Duration::from_secs(30)).min(MAX_RETRY_AFTER)),
            (StatusCode::SERVICE_UNAVAILABLE, _, Some(wait)) => Error::RateLimited(wait.min(MAX_RETRY_AFTER)),
            (
                StatusCode::BAD_REQUEST
                | StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::CONFLICT
                | StatusCode::UNPROCESSABLE_ENTITY,
                Some(problem),
                _,
            ) => Error::Refused { status: status.as_u16(), reason: plain(&problem.error) },
            (_, Some(problem), _) => away(&format!("status {}: {}", status.as_u16(), plain(&problem.error))),
            // Something on the way speaks: a proxy while the service behind it is replaced, a firewall, a captive portal.
            (_, None, _) => {
                let place = location.map(|to| format!(", which points to {}", plain(&to))).unwrap_or_default();
                away(&format!("status {}{place}, not in the service's words ({})", status.as_u16(), plain(&kind)))
            }
        })
    }
}

/// The service's own word (RFC 9457, with the members that every Motience service adds). Anything else may come from whatever
/// stands between, which knows nothing of accounts.
#[derive(Deserialize)]
struct Problem {
    status: u16,
    #[serde(rename = "code")]
    _code: String,
    error: String,
}

impl Problem {
    fn read(kind: &str, status: StatusCode, body: &[u8]) -> Option<Self> {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/problem+json") {
            return None;
        }
        serde_json::from_slice(body).ok().filter(|problem: &Self| problem.status == status.as_u16())
    }
}

/// Words from elsewhere, fit for a log.
fn plain(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// An error of reqwest with its causes; without the URL, which is the operator's own setting.
fn describe(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() { "no answer within the time limit".into() } else { explain(&text) }
}

#[cfg(test)]
mod tests;
