//! Password hashes: argon2id, and bcrypt in rows of an adopted database.
//!
//! A hash takes tens of milliseconds and 19 MiB, so only so many are made at once, off the async threads; who has to wait too long
//! is told to come back. An unknown user costs the same time as a known one; only an adopted account keeps the time of bcrypt, until
//! its first login replaces the hash.

use std::{num::NonZero, sync::Arc, thread::available_parallelism, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version, password_hash::Error as HashError};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Error, policy::MAX_PASSWORD};

/// Longest wait for one's turn.
const QUEUE_LIMIT: Duration = Duration::from_secs(5);

/// What OWASP advises for argon2id: 19 MiB of memory, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Highest bcrypt cost that is worked on. Each step doubles the time: 14 is a second, 31 would be days.
const MAX_BCRYPT_COST: u32 = 14;

/// For the hash of nothing: its result is thrown away.
const NO_SALT: &[u8; 16] = b"motience nobody.";

/// Makes and checks password hashes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hasher {
    turns: Arc<Semaphore>,
    wait: Duration,
}

/// What checking a password found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the password.
    Match,
    /// It is the password, and its hash is of an older kind: store a new one.
    MatchRehash,
    /// It is not.
    Mismatch,
}

impl Hasher {
    /// At most `permits` hashes at once; at least one.
    pub fn new(permits: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(permits.max(1))), wait: QUEUE_LIMIT }
    }

    /// As many permits as processors: more would only share them.
    pub fn default_permits() -> usize {
        available_parallelism().map_or(1, NonZero::get)
    }

    /// The hash to store for a password.
    pub async fn hash(&self, password: SecretString) -> Result<String, Error> {
        self.run(move || {
            let hash = argon2().hash_password(password.expose_secret().as_bytes()).map_err(|_| Error::Internal)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the one of the stored hash. A hash of an unknown form matches nothing.
    pub async fn verify(&self, password: SecretString, hash: &str) -> Result<Verdict, Error> {
        let hash = hash.to_owned();
        self.run(move || Ok(verdict(password.expose_secret(), &hash))).await
    }

    /// Takes the time that [`verify`](Self::verify) takes; for a name that nobody has.
    pub async fn verify_nothing(&self, password: SecretString) -> Result<(), Error> {
        self.run(move || {
            waste(password.expose_secret());
            Ok(())
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let turn =
            timeout(self.wait, Arc::clone(&self.turns).acquire_owned()).await.map_err(|_| Error::Busy)?.map_err(|_| Error::Internal)?;
        // The turn goes with the work: a caller that leaves does not stop the work, and must not let another one start beside it.
        let work = move || {
            let result = work();
            drop(turn);
            result
        };
        spawn_blocking(work).await.map_err(|_| Error::Internal)?
    }
}

fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params())
}

fn params() -> Params {
    Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the advised parameters are within argon2's bounds")
}

fn verdict(password: &str, hash: &str) -> Verdict {
    // No such password was ever taken, and hashing it costs time; but the answer must not come sooner than others.
    if password.chars().count() > MAX_PASSWORD {
        waste("");
        return Verdict::Mismatch;
    }
    if let Some(cost) = bcrypt_cost(hash) {
        let matches = cost <= MAX_BCRYPT_COST && bcrypt::verify(password, hash).unwrap_or(false);
        return if matches { Verdict::MatchRehash } else { Verdict::Mismatch };
    }
    let Ok(parsed) = PasswordHash::new(hash) else {
        waste(password);
        return Verdict::Mismatch;
    };
    match argon2().verify_password(password.as_bytes(), &parsed) {
        Ok(()) if is_current(&parsed) => Verdict::Match,
        Ok(()) => Verdict::MatchRehash,
        Err(HashError::PasswordInvalid) => Verdict::Mismatch,
        Err(error) => {
            tracing::warn!(%error, "a stored password hash cannot be used");
            Verdict::Mismatch
        }
    }
}

/// The cost of a bcrypt hash: `$2b$10$…`.
fn bcrypt_cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    rest.split('$').next()?.parse().ok()
}

/// Whether a hash was made as we would make it today.
fn is_current(hash: &PasswordHash) -> bool {
    let same = |params: Params| (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES);
    hash.algorithm == Algorithm::Argon2id.ident() && Params::try_from(hash).is_ok_and(same)
}

/// One hash for nothing.
fn waste(password: &str) -> Option<String> {
    let hash = argon2().hash_password_with_salt(password.as_bytes(), NO_SALT);
    // The compiler must not see that nobody looks at it.
    std::hint::black_box(hash.ok().map(|hash| hash.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretString {
        text.into()
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let hasher = Hasher::new(2);
        let hash = hasher.hash(secret("pass123")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hasher.hash(secret("pass123")).await.unwrap(), hash);
        assert_eq!(hasher.verify(secret("pass123"), &hash).await, Ok(Verdict::Match));
        assert_eq!(hasher.verify(secret("pass124"), &hash).await, Ok(Verdict::Mismatch));
        assert_eq!(hasher.verify(secret(&"x".repeat(MAX_PASSWORD + 1)), &hash).await, Ok(Verdict::Mismatch));
    }

    #[tokio::test]
    async fn bcrypt_is_accepted_and_to_be_replaced() {
        let hasher = Hasher::new(1);
        let made = bcrypt::hash("pass123", 4).unwrap();
        for version in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{version}{}", &made[4..]);
            assert_eq!(hasher.verify(secret("pass123"), &hash).await, Ok(Verdict::MatchRehash), "{version}");
            assert_eq!(hasher.verify(secret("pass124"), &hash).await, Ok(Verdict::Mismatch), "{version}");
        }
        let endless = made.replacen("$04$", "$31$", 1);
        assert_eq!(hasher.verify(secret("pass123"), &endless).await, Ok(Verdict::Mismatch));
    }

    #[tokio::test]
    async fn weaker_argon2_is_to_be_replaced() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8192, 1, 1, None).unwrap());
        let hash = weak.hash_password(b"pass123").unwrap().to_string();
        assert_eq!(Hasher::new(1).verify(secret("pass123"), &hash).await, Ok(Verdict::MatchRehash));
    }

    #[tokio::test]
    async fn a_broken_hash_matches_nothing() {
        for hash in ["", "plain", "$2b$", "$2b$10$short", "$argon2id$v=19$m=19456", "$1$abc$def"] {
            assert_eq!(Hasher::new(1).verify(secret("pass123"), hash).await, Ok(Verdict::Mismatch), "{hash}");
        }
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        // Not measured, for time is noise on a busy machine: the same algorithm with the same parameters.
        let wasted = waste("pass124").expect("it is hashed");
        assert!(is_current(&PasswordHash::new(&wasted).unwrap()), "{wasted}");
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told() {
        let hasher = Hasher { turns: Arc::new(Semaphore::new(0)), wait: Duration::from_millis(10) };
        assert_eq!(hasher.hash(secret("pass123")).await, Err(Error::Busy));
    }
}
