//! Tokens: logging in, refreshing, and keeping the pair of an account.

use std::{fmt, time::Duration};

use motience_certs::{
    Trust,
    client::{distrusting_config, tcp_config},
};
use motience_shared::model::{Role, UserId};
use reqwest::{RequestBuilder, StatusCode, Url, header::RETRY_AFTER, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// Time limit of one request, from connecting to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer read, in bytes: two tokens and a little.
const MAX_ANSWER: usize = 64 * 1024;
/// The longest `Retry-After` that is honoured; a wrong header must not silence a device for years.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server knows no such account or password, or the role does not fit. Asking again cannot help.
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
    /// What it may do.
    pub role: Role,
}

/// The authentication service.
#[derive(Clone, Debug)]
pub struct Auth {
    http: reqwest::Client,
    base: String,
}

impl Auth {
    /// `url` is the service's base: `http://host:3001` or `https://host/api/auth`.
    pub fn new(url: &str, trust: &Trust) -> Result<Self, Error> {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
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
        Ok(Self { http, base: url.trim_end_matches('/').to_owned() })
    }

    /// Logs in.
    pub async fn login(&self, username: &str, password: &SecretString) -> Result<Tokens, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            username: &'a str,
            password: &'a str,
        }
        tokens(self.post("login").json(&Body { username, password: password.expose_secret() })).await
    }

    /// Trades a refresh token for a new pair.
    pub async fn refresh(&self, refresh: &SecretString) -> Result<Tokens, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            refresh_token: &'a str,
        }
        tokens(self.post("refresh").json(&Body { refresh_token: refresh.expose_secret() })).await
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
        Ok(answer::<Answer>(self.post("register").json(&body)).await?.id)
    }

    fn post(&self, operation: &str) -> RequestBuilder {
        self.http.post(format!("{}/{operation}", self.base))
    }
}

/// Where a connection's token comes from.
#[derive(Debug)]
pub enum Credentials {
    /// A token made elsewhere; nothing renews it.
    Token(SecretString),
    /// An account; boxed, for it is much larger.
    Account(Box<Account>),
}

impl Credentials {
    /// An account's name and password.
    pub fn account(auth: Auth, username: impl Into<String>, password: SecretString) -> Self {
        Self::Account(Box::new(Account { auth, username: username.into(), password, tokens: Mutex::default() }))
    }

    /// Whether a new token can be had.
    pub fn can_renew(&self) -> bool {
        matches!(self, Self::Account(_))
    }

    /// Whether [`Credentials::token`] needs no login.
    pub async fn has_token(&self) -> bool {
        match self {
            Self::Token(_) => true,
            Self::Account(account) => account.tokens.lock().await.is_some(),
        }
    }

    /// A token; logs in where there is none yet.
    pub async fn token(&self) -> Result<SecretString, Error> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Account(account) => account.token().await,
        }
    }

    /// A new token: by refreshing, or by logging in where that is refused.
    pub async fn renew(&self) -> Result<SecretString, Error> {
        match self {
            Self::Token(_) => Err(Error::Refused { status: 401, reason: "the token cannot be renewed".into() }),
            Self::Account(account) => account.renew().await,
        }
    }

    /// Forgets the token, so that the next one comes from a login with the password.
    pub async fn forget(&self) {
        if let Self::Account(account) = self {
            *account.tokens.lock().await = None;
        }
    }
}

/// An account and its current tokens.
pub struct Account {
    auth: Auth,
    username: String,
    password: SecretString,
    /// Held across requests: a refresh token works once, so two refreshes at once would revoke the family.
    tokens: Mutex<Option<Tokens>>,
}

impl Account {
    async fn token(&self) -> Result<SecretString, Error> {
        let mut tokens = self.tokens.lock().await;
        if let Some(tokens) = tokens.as_ref() {
            return Ok(tokens.access.clone());
        }
        let fresh = self.auth.login(&self.username, &self.password).await?;
        tracing::info!(username = self.username, user_id = %fresh.user_id, "logged in");
        Ok(tokens.insert(fresh).access.clone())
    }

    async fn renew(&self) -> Result<SecretString, Error> {
        let mut tokens = self.tokens.lock().await;
        let refreshed = match tokens.as_ref() {
            Some(tokens) => Some(self.auth.refresh(&tokens.refresh).await),
            None => None,
        };
        let fresh = match refreshed {
            Some(Ok(fresh)) => fresh,
            // Spent, for its answer was lost on the way, or expired while the device slept: the password is still good.
            Some(Err(Error::Refused { .. })) | None => self.auth.login(&self.username, &self.password).await?,
            Some(Err(error)) => return Err(error),
        };
        Ok(tokens.insert(fresh).access.clone())
    }
}

impl fmt::Debug for Account {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}

async fn tokens(request: RequestBuilder) -> Result<Tokens, Error> {
    answer(request).await
}

async fn answer<T: for<'de> Deserialize<'de>>(request: RequestBuilder) -> Result<T, Error> {
    let mut response = request.send().await.map_err(|e| Error::Unavailable(describe(&e)))?;
    let status = response.status();
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| Error::Unavailable(describe(&e)))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Error::Unavailable("the answer is too long".into()));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| Error::Unavailable("the answer is not what a Motience server says".into()));
    }
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS => Error::RateLimited(wait.unwrap_or(Duration::from_secs(30)).min(MAX_RETRY_AFTER)),
        StatusCode::CONFLICT => Error::Taken,
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY => {
            Error::Refused { status: status.as_u16(), reason: reason(&body) }
        }
        // 404 and the like are what a proxy says while the service behind it is replaced.
        StatusCode::SERVICE_UNAVAILABLE if wait.is_some() => Error::RateLimited(wait.unwrap_or_default().min(MAX_RETRY_AFTER)),
        _ => Error::Unavailable(format!("status {}: {}", status.as_u16(), reason(&body))),
    })
}

/// The server's plain words, from the problem document.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        error: Option<String>,
        detail: Option<String>,
        title: Option<String>,
    }
    let words = serde_json::from_slice(body).ok().and_then(|p: Problem| p.error.or(p.detail).or(p.title));
    words.unwrap_or_else(|| "no reason given".into()).chars().filter(|c| !c.is_control()).take(200).collect()
}

/// An error of reqwest with its causes; without the URL, which is the operator's own setting.
fn describe(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if error.is_timeout() { "no answer within the time limit".into() } else { text }
}

#[cfg(test)]
mod tests;
