//! The password of the caller's own account, asked for again before it is changed or the account ends. Guesses are held to the limits of a
//! login.

use motience_auth::{Grant, Turn, Verdict, canonical_username};
use motience_http::{ApiError, ClientAddress};
use secrecy::SecretString;

use super::login::MAX_PASSWORD;
use crate::http::Shared;

/// Checks the password; 403 where it is wrong. Gives the turn in the queue for hashes, for a new one.
pub(super) async fn check(services: &Shared, grant: &Grant, address: ClientAddress, password: String) -> Result<Turn, ApiError> {
    let backend = &services.backend;
    let name = canonical_username(&grant.username).unwrap_or_else(|_| grant.username.clone());
    let mut attempt = services.limiters.logins.attempt(&name, address);
    attempt.begin(&backend.store, &grant.username).await?;
    let wrong = || ApiError::forbidden("The password is wrong.").with_code("wrong_password").meant(&name);
    if password.len() > MAX_PASSWORD {
        attempt.failed();
        return Err(wrong());
    }
    let waiter = backend.hasher.enqueue(&name)?;
    let credentials = backend.store.credentials(&grant.username).await?.filter(|credentials| credentials.user.id == grant.user);
    let turn = waiter.turn().await?;
    // Others may have failed meanwhile.
    attempt.check()?;
    let hash = credentials.as_ref().map(|credentials| credentials.password_hash.as_str());
    if turn.verify(SecretString::from(password), hash).await? == Verdict::Mismatch || credentials.is_none() {
        attempt.failed();
        return Err(wrong());
    }
    attempt.succeeded(&backend.store, grant.user, backend.clock.now()).await;
    Ok(turn)
}
