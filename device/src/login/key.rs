//! A device's tokens, got by its key: a nonce signed for each. Its certificate is renewed on the way, when that is due.

use std::{fmt, time::Duration};

use secrecy::SecretString;
use time::OffsetDateTime;
use tokio::{sync::Mutex, time::Instant};

use super::{Auth, Error, Identity};
use crate::clock;

/// The part of a token's life after which a connection is not begun with it any more.
const SPENT_AT: f64 = 0.95;
/// Longest life of a token that is believed: what lies beyond overflows clocks.
const MAX_LIFE: u64 = 10 * 365 * 86_400;

/// A device that logs in by its key.
pub struct Key {
    auth: Auth,
    /// Held across requests, so that two renewals never meet in its file.
    state: Mutex<State>,
}

struct State {
    identity: Identity,
    token: Option<(SecretString, Instant)>,
}

impl Key {
    pub(super) fn new(auth: Auth, identity: Identity) -> Self {
        Self { auth, state: Mutex::new(State { identity, token: None }) }
    }

    /// A token, and whether it was made just now.
    pub(super) async fn token(&self) -> Result<(SecretString, bool), Error> {
        let mut state = self.state.lock().await;
        match &state.token {
            Some((token, spent)) if Instant::now() < *spent => Ok((token.clone(), false)),
            _ => self.login(&mut state, clock::now_in_millis()).await.map(|token| (token, true)),
        }
    }

    /// A new token.
    pub(super) async fn renew(&self) -> Result<SecretString, Error> {
        self.login(&mut *self.state.lock().await, clock::now_in_millis()).await
    }

    pub(super) async fn forget(&self) {
        self.state.lock().await.token = None;
    }

    async fn login(&self, state: &mut State, now: OffsetDateTime) -> Result<SecretString, Error> {
        if state.identity.is_due(now)
            && let Err(error) = state.identity.renew(&self.auth).await
        {
            // The key is as good as before: the next login tries again.
            tracing::warn!(%error, "the device's certificate cannot be renewed yet");
        }
        let (token, life) = self.auth.login_by_key(&state.identity).await?;
        let spent = Instant::now() + Duration::from_secs(life.min(MAX_LIFE)).mul_f64(SPENT_AT);
        state.token = Some((token.clone(), spent));
        Ok(token)
    }
}

impl fmt::Debug for Key {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
