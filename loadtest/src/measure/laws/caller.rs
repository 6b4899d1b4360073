//! Calls of the REST interface by one account.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use crate::common::accounts::Account;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Caller {
    http: Client,
    token: String,
}

impl Caller {
    pub(super) fn of(account: &Account) -> Result<Self> {
        Ok(Self { http: Client::builder().timeout(ANSWER_LIMIT).build()?, token: account.token.clone() })
    }

    /// A page, which has to have an entry.
    pub(super) async fn page(&self, url: &str) -> Result<Vec<Value>> {
        let found: Vec<Value> = serde_json::from_value(self.get(url).await?)?;
        if found.is_empty() {
            bail!("{url} is empty");
        }
        Ok(found)
    }

    pub(super) async fn get(&self, url: &str) -> Result<Value> {
        self.answer(self.http.get(url)).await
    }

    pub(super) async fn post(&self, url: &str, body: &Value) -> Result<Value> {
        self.answer(self.http.post(url).json(body)).await
    }

    pub(super) async fn delete(&self, url: &str) -> Result<Value> {
        self.answer(self.http.delete(url)).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let answer = request.bearer_auth(&self.token).send().await.context("the server does not answer")?;
        let (status, url) = (answer.status(), answer.url().clone());
        let body = answer.bytes().await?;
        if !status.is_success() {
            bail!("{url} was answered {status}: {}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).context("the server's answer is no JSON")
    }
}
