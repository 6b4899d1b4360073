//! Access tokens of other issuers: whose they are, and what they allow here.
//!
//! ```text
//! OIDC_ISSUERS --config--> Issuers --verify(token)--> Identity: issuer, subject, role, scopes, times
//!                             |  keys of each issuer, fetched over HTTP and kept
//! ```
//!
//! A token is checked by keys that are known here, so an issuer that is away stops nobody whose key is known. Nothing here knows accounts:
//! the backend has one for each subject of an issuer.

mod claims;
mod config;
mod fetch;
mod issuer;
mod key_set;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use jsonwebtoken::dangerous::insecure_decode_claims;
use motience_auth as auth;
use motience_runtime::{causes, clock::Clock};
use serde::Deserialize;
use tokio::time::sleep;
use tracing::warn;

pub use config::{Config, ConsoleClient, Error, Settings};
pub use issuer::Identity;

use issuer::Issuer;

/// How often the keys are asked for while there are none.
const FIRST_KEYS_EVERY: Duration = Duration::from_secs(5);

/// The issuers whose tokens are taken. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Issuers(Arc<[Issuer]>, Duration);

impl Issuers {
    /// Those of the settings. Nothing is fetched yet.
    pub fn new(config: &Config, clock: &Clock) -> Result<Self, Error> {
        let issuers = config.read()?;
        let tls = if issuers.is_empty() { None } else { Some(fetch::Fetcher::new(config.ca.as_deref())?) };
        let issuers = issuers.into_iter().zip(std::iter::repeat(tls)).filter_map(|(issuer, tls)| Some((issuer, tls?)));
        Ok(Self(issuers.map(|(issuer, tls)| Issuer::new(issuer, tls, config.pause, clock.clone())).collect(), config.every))
    }

    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The holder of a token; `None`: it names none of these issuers.
    pub async fn verify(&self, token: &str) -> Result<Option<Identity>, auth::Error> {
        /// The one claim that is read before the signature is checked: it says by whose keys.
        #[derive(Deserialize)]
        struct Unchecked {
            iss: String,
        }
        if self.are_none() || token.len() > auth::MAX_TOKEN {
            return Ok(None);
        }
        let Ok(Unchecked { iss }) = insecure_decode_claims::<Unchecked>(token) else { return Ok(None) };
        let Some(issuer) = self.0.iter().find(|issuer| issuer.url() == iss) else { return Ok(None) };
        let outcome = issuer.verify(token).await;
        let code = outcome.as_ref().map_or_else(|e| e.code(), |_| "taken");
        metrics::counter!("motience_external_tokens_total", "outcome" => code).increment(1);
        outcome.map(Some)
    }

    /// Where people of the issuers log in to the console.
    pub fn console_clients(&self) -> Vec<ConsoleClient> {
        self.0.iter().filter_map(Issuer::console_client).collect()
    }

    /// Keeps the keys fresh, for as long as it is polled: fetches them at first, then every OIDC_KEYS_EVERY. A key that an issuer has taken back
    /// is believed no longer than that.
    pub async fn keep_keys(self) {
        join_all(self.0.iter().map(async |issuer| {
            loop {
                let outcome = issuer.fetch_keys().await;
                if let Err(e) = &outcome {
                    warn!(issuer = issuer.url(), error = causes(e), "the keys of an issuer cannot be fetched; those that are known go on");
                }
                sleep(if issuer.has_keys() { self.1 } else { FIRST_KEYS_EVERY }).await;
            }
        }))
        .await;
    }
}
