//! The accounts of a test: made and logged in through the documented API.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::server::Addresses;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How often a server that asks to come back later is asked again.
const PATIENCE: usize = 20;

/// One account, logged in.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) token: String,
    pub(crate) refresh_token: String,
}

#[derive(Deserialize)]
struct Login {
    access_token: String,
    user_id: i64,
    refresh_token: String,
}

/// Makes accounts at one server.
pub(crate) struct Accounts {
    http: Client,
    addresses: Addresses,
    run: String,
}

impl Accounts {
    pub(crate) fn new(addresses: &Addresses) -> Result<Self> {
        let http = Client::builder().timeout(ANSWER_LIMIT).build()?;
        Ok(Self { http, addresses: addresses.clone(), run: format!("{:08x}", fastrand::u32(..)) })
    }

    /// `count` accounts with this role.
    pub(crate) async fn make(&self, role: &str, count: usize) -> Result<Vec<Account>> {
        let mut accounts = Vec::with_capacity(count);
        for i in 0..count {
            let username = format!("load-{}-{role}-{i}", self.run);
            let password = format!("load-{}-password", self.run);
            let register = self.http.post(format!("{}/register", self.addresses.ap));
            self.send(register.json(&json!({"username": username, "password": password, "role": role}))).await?;
            accounts.push(self.login(&username, &password).await?);
        }
        Ok(accounts)
    }

    /// The account with this name, logged in.
    pub(crate) async fn login(&self, username: &str, password: &str) -> Result<Account> {
        let login = self.http.post(format!("{}/login", self.addresses.ap));
        let login = self.send(login.json(&json!({"username": username, "password": password}))).await?;
        let Login { access_token: token, user_id: id, refresh_token } = serde_json::from_value(login)?;
        Ok(Account { id, username: username.to_owned(), password: password.to_owned(), token, refresh_token })
    }

    pub(crate) async fn subscribe(&self, consumer: &Account, producer: &Account) -> Result<()> {
        self.subscribe_to(consumer, producer.id).await
    }

    pub(crate) async fn subscribe_to(&self, consumer: &Account, producer: i64) -> Result<()> {
        let request = self.http.post(format!("{}/subscribe", self.addresses.sm)).bearer_auth(&consumer.token);
        self.send(request.json(&json!({"producer_id": producer}))).await.map(drop)
    }

    pub(crate) async fn unsubscribe(&self, consumer: &Account, producer: i64) -> Result<()> {
        let request = self.http.delete(format!("{}/unsubscribe", self.addresses.sm)).bearer_auth(&consumer.token);
        self.send(request.json(&json!({"producer_id": producer}))).await.map(drop)
    }

    /// Decides about a subscription of the producer's: `approve`, `deny` or `revoke`.
    pub(crate) async fn decide(&self, producer: &Account, subscription: i64, word: &str, body: &Value) -> Result<()> {
        let request = self.http.post(format!("{}/subscriptions/{subscription}/{word}", self.addresses.sm)).bearer_auth(&producer.token);
        self.send(if body.is_null() { request } else { request.json(body) }).await.map(drop)
    }

    /// Sends a record of the producer's over HTTP, or an array of them.
    pub(crate) async fn post(&self, producer: &Account, record: &impl Serialize) -> Result<()> {
        let request = self.http.post(format!("{}/data", self.addresses.dsm)).bearer_auth(&producer.token);
        self.send(request.json(record)).await.map(drop)
    }

    /// Records of an account that the server has counted: taken in, and given out. Of at most 1000 devices or producers.
    pub(crate) async fn usage(&self, account: &Account) -> Result<(u64, u64)> {
        let url = format!("{}/usage?sum=true", self.addresses.dsm);
        let found = self.send(self.http.get(url).bearer_auth(&account.token)).await?;
        let sum = |direction: &str| {
            let of_it = found.as_array().into_iter().flatten().filter(|one| one["direction"] == direction);
            of_it.map(|one| one["records"].as_u64().unwrap_or_default()).sum()
        };
        Ok((sum("in"), sum("out")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value> {
        for _ in 0..PATIENCE {
            let request = request.try_clone().context("a request with a body in memory can be repeated")?;
            let answer = request.send().await.context("the server's HTTP API does not answer")?;
            let status = answer.status();
            // A server that has no room now says when it may have some.
            if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                let wait = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(1);
                sleep(Duration::from_secs(wait)).await;
                continue;
            }
            let body = answer.text().await?;
            if !status.is_success() {
                bail!("the server answered {status}: {body}");
            }
            return serde_json::from_str(&body).context("the server's answer is no JSON");
        }
        bail!(
            "the server is full, or its rate limits leave no room: set RATE_LIMIT_REGISTER=off and RATE_LIMIT_LOGIN=off on it for the test"
        )
    }
}
