//! An account's tokens: got by the password once, then by refreshing, also after a restart of this program.

use std::{
    fmt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use secrecy::SecretString;
use tokio::{sync::Mutex, time::Instant};

use super::{Auth, Error, Identity, Key, Tokens, kept};

/// The part of a token's life after which a connection is not begun with it any more.
const SPENT_AT: f64 = 0.95;

/// Where a connection's token comes from.
#[derive(Debug)]
pub enum Credentials {
    /// A token made elsewhere; nothing renews it.
    Token(SecretString),
    /// An account; boxed, for it is much larger.
    Account(Box<Account>),
    /// The device's own key.
    Key(Box<Key>),
}

impl Credentials {
    /// An account's name and password.
    pub fn account(auth: Auth, username: impl Into<String>, password: SecretString) -> Self {
        let (state, file) = (Mutex::default(), None);
        Self::Account(Box::new(Account { auth, username: username.into(), password, file, state, doubted: AtomicBool::new(false) }))
    }

    /// A device that enrolled.
    pub fn identity(auth: Auth, identity: Identity) -> Self {
        Self::Key(Box::new(Key::new(auth, identity)))
    }

    /// Keeps the refresh token in this file as well, so that the account needs no login after a restart. A login costs the server
    /// far more than a refresh, and is limited to keep guessers out.
    #[must_use]
    pub fn kept_in(mut self, file: PathBuf) -> Self {
        if let Self::Account(account) = &mut self {
            account.file = Some(file);
        }
        self
    }

    /// Whether a new token can be had.
    pub fn can_renew(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    /// A token; refreshes, or logs in, where there is none that is good.
    pub async fn token(&self) -> Result<SecretString, Error> {
        self.obtain().await.map(|(token, _)| token)
    }

    /// A token, and whether it was made from the password just now: if it is refused, another would be too.
    pub(crate) async fn obtain(&self) -> Result<(SecretString, bool), Error> {
        match self {
            Self::Token(token) => Ok((token.clone(), false)),
            Self::Account(account) => account.token().await,
            Self::Key(key) => key.token().await,
        }
    }

    /// A new token: by refreshing, or by logging in where that is refused.
    pub async fn renew(&self) -> Result<SecretString, Error> {
        match self {
            Self::Token(_) => Err(Error::Refused { status: 401, reason: "the token cannot be renewed".into() }),
            Self::Account(account) => account.renew(&mut *account.state.lock().await).await.map(|(token, _)| token),
            Self::Key(key) => key.renew().await,
        }
    }

    /// A server refused the token: the next one is another. Where that happens twice, it comes from the password.
    pub async fn forget(&self) {
        match self {
            Self::Token(_) => {}
            Self::Account(account) => account.forget().await,
            Self::Key(key) => key.forget().await,
        }
    }

    /// A server took the token.
    pub(crate) fn accepted(&self) {
        if let Self::Account(account) = self {
            account.doubted.store(false, Relaxed);
        }
    }
}

/// An account and its current tokens.
pub struct Account {
    auth: Auth,
    username: String,
    password: SecretString,
    file: Option<PathBuf>,
    /// Held across requests: a refresh token works once, so two refreshes at once would revoke the family.
    state: Mutex<State>,
    /// A token was refused, and none taken since.
    doubted: AtomicBool,
}

#[derive(Default)]
struct State {
    access: Option<Access>,
    refresh: Option<SecretString>,
    /// The file has been looked into.
    read: bool,
}

struct Access {
    token: SecretString,
    spent: Instant,
}

impl Account {
    async fn token(&self) -> Result<(SecretString, bool), Error> {
        let mut state = self.state.lock().await;
        match &state.access {
            Some(access) if Instant::now() < access.spent => Ok((access.token.clone(), false)),
            _ => self.renew(&mut state).await,
        }
    }

    /// A new token, and whether it comes from the password.
    async fn renew(&self, state: &mut State) -> Result<(SecretString, bool), Error> {
        if let Some(file) = &self.file
            && !std::mem::replace(&mut state.read, true)
            && state.refresh.is_none()
        {
            state.refresh = kept::read(file, &self.owner());
        }
        let refreshed = match &state.refresh {
            Some(refresh) => match self.auth.refresh(refresh).await {
                // Spent, for its answer was lost on the way, or expired while the device slept: the password is still good.
                Err(Error::Refused { .. }) => None,
                answer => Some(answer?),
            },
            None => None,
        };
        let (tokens, from_password) = match refreshed {
            Some(tokens) => (tokens, false),
            None => {
                state.refresh = None;
                let tokens = self.auth.login(&self.username, &self.password).await?;
                tracing::info!(username = self.username, user_id = %tokens.user_id, "logged in");
                (tokens, true)
            }
        };
        let Tokens { access, refresh, expires_in, .. } = tokens;
        if let Some(file) = &self.file
            && let Err(error) = kept::write(file, &self.owner(), &refresh)
        {
            tracing::warn!(file = %file.display(), %error, "the refresh token cannot be kept: the next start needs a login");
        }
        let spent = Instant::now() + Duration::from_secs(expires_in.min(MAX_LIFE)).mul_f64(SPENT_AT);
        state.refresh = Some(refresh);
        let access = state.access.insert(Access { token: access, spent });
        Ok((access.token.clone(), from_password))
    }

    async fn forget(&self) {
        let mut state = self.state.lock().await;
        state.access = None;
        if self.doubted.swap(true, Relaxed) {
            state.refresh = None;
            // The token in the file is of this family.
            state.read = true;
        }
    }

    /// To whom the kept token belongs: it is of no use, and nobody's business, elsewhere.
    fn owner(&self) -> String {
        format!("{} {}", self.auth.base, self.username)
    }
}

/// Longest life of a token that is believed, in seconds: what lies beyond overflows clocks.
const MAX_LIFE: u64 = 10 * 365 * 86_400;

impl fmt::Debug for Account {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("username", &self.username).finish_non_exhaustive()
    }
}
