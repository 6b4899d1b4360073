//! Password hashes: argon2id, and bcrypt in rows of an imported database.
//!
//! A hash takes tens of milliseconds and 19 MiB, so only so many are made at once, off the async threads, and one processor is left to live
//! traffic; a caller that waits too long is asked to come back. An unknown user costs the same time as a known one; only an adopted account
//! keeps the time of bcrypt, until its first login replaces the hash.
//!
//! The hash is of the password's canonical form (RFC 8265, section 4.2), which is the same from every keyboard. Hashes from before hold the
//! password as it was typed, and are checked with that too.

use std::{num::NonZero, thread::available_parallelism, time::Instant};

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version, password_hash::Error as HashError};
use motience_runtime::histogram;
use secrecy::{ExposeSecret, SecretString};
use tokio::task::spawn_blocking;

use super::{
    Error,
    hash_queue::{HashLimits, HashQueue, Turn, Waiter},
    names::{MAX_PASSWORD, canonical_password},
};

/// OWASP's advice for argon2id: 19 MiB of memory, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Highest bcrypt cost that is worked on. Each step doubles the time: 14 is a second, 31 would be days.
const MAX_BCRYPT_COST: u32 = 14;

/// For the hash of nothing: its result is thrown away.
const NO_SALT: &[u8; 16] = b"motience nobody.";

/// Makes and checks password hashes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hasher(HashQueue);

/// Outcome of checking a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password matches.
    Match,
    /// The password matches, and its hash is of an older kind: store a new one.
    MatchRehash,
    /// The password does not match.
    Mismatch,
}

impl HashLimits {
    /// Hashes at once; unless a setting says otherwise one processor is left to everything else, where there are several.
    pub fn at_once(&self) -> usize {
        self.at_once.unwrap_or_else(spare_processors)
    }
}

/// One less than there are processors, but at least one.
pub fn spare_processors() -> usize {
    available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1)
}

impl Hasher {
    /// Within these limits.
    pub fn new(limits: HashLimits) -> Self {
        Self(HashQueue::new(limits))
    }

    /// Callers that wait for a password to be hashed.
    pub fn waiting(&self) -> usize {
        self.0.waiting()
    }

    /// Enters the queue for a hash of a password of `account`; fails at once with [`Error::Busy`] where the queue is full.
    pub fn enqueue(&self, account: &str) -> Result<Waiter, Error> {
        self.0.enqueue(account)
    }

    /// The hash to store for a new password of `account`.
    pub async fn hash(&self, account: &str, password: SecretString) -> Result<String, Error> {
        self.enqueue(account)?.turn().await?.hash(password).await
    }
}

impl Turn {
    /// The hash to store for a password.
    pub async fn hash(&self, password: SecretString) -> Result<String, Error> {
        self.run(move || {
            let password = password.expose_secret();
            let canonical = canonical_password(password).unwrap_or_else(|_| password.into());
            let hash = argon2().hash_password(canonical.as_bytes()).map_err(|_| Error::Internal)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the one of the stored hash. A hash of an unknown form matches nothing. `None`: nobody has such a name;
    /// that takes the same time.
    pub async fn verify(&self, password: SecretString, hash: Option<&str>) -> Result<Verdict, Error> {
        let hash = hash.map(str::to_owned);
        self.run(move || {
            let password = password.expose_secret();
            let check = |password: &str| match &hash {
                Some(hash) => verdict(password, hash),
                None => {
                    waste(password);
                    Verdict::Mismatch
                }
            };
            let Ok(canonical) = canonical_password(password) else { return Ok(check(password)) };
            let found = check(&canonical);
            if found != Verdict::Mismatch || canonical == password {
                return Ok(found);
            }
            // A hash from before passwords had a canonical form.
            Ok(if check(password) == Verdict::Mismatch { Verdict::Mismatch } else { Verdict::MatchRehash })
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let turn = self.clone();
        let work = move || {
            let begun = Instant::now();
            let result = work();
            histogram!("motience_password_seconds", "step" => "hash").since(begun);
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

    async fn hash(password: &str) -> String {
        Hasher::new(HashLimits::default()).hash("a", secret(password)).await.unwrap()
    }

    async fn verify(password: &str, hash: &str) -> Verdict {
        let turn = Hasher::new(HashLimits::default()).enqueue("a").unwrap().turn().await.unwrap();
        turn.verify(secret(password), Some(hash)).await.unwrap()
    }

    #[tokio::test]
    async fn a_password_matches_its_own_hash_only() {
        let made = hash("pass123").await;
        assert!(made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{made}");
        assert_ne!(hash("pass123").await, made);
        assert_eq!(verify("pass123", &made).await, Verdict::Match);
        assert_eq!(verify("pass124", &made).await, Verdict::Mismatch);
        assert_eq!(verify(&"x".repeat(MAX_PASSWORD + 1), &made).await, Verdict::Mismatch);
    }

    #[tokio::test]
    async fn a_password_is_the_same_from_every_keyboard() {
        // One letter or a letter and an accent; a wide blank or a plain one.
        let (composed, decomposed) = ("caf\u{e9} cr\u{e8}me", "cafe\u{301}\u{3000}cre\u{300}me");
        let made = hash(decomposed).await;
        assert_eq!(verify(composed, &made).await, Verdict::Match);
        assert_eq!(verify(decomposed, &made).await, Verdict::Match);
        assert_eq!(verify("cafe creme", &made).await, Verdict::Mismatch);
        assert_eq!(verify(&composed.to_uppercase(), &made).await, Verdict::Mismatch, "case matters");
    }

    #[tokio::test]
    async fn a_hash_of_the_password_as_it_was_typed_still_matches_and_is_to_be_replaced() {
        for typed in ["cafe\u{301}1", "tab\there12", "wide\u{3000}blank"] {
            let raw = argon2().hash_password(typed.as_bytes()).unwrap().to_string();
            let found = verify(typed, &raw).await;
            let canonical = canonical_password(typed).is_ok();
            assert_eq!(found, if canonical { Verdict::MatchRehash } else { Verdict::Match }, "{typed:?}");
        }
    }

    #[tokio::test]
    async fn bcrypt_is_accepted_and_to_be_replaced() {
        let made = bcrypt::hash("pass123", 4).unwrap();
        for version in ["$2a$", "$2b$", "$2y$"] {
            let hash = format!("{version}{}", &made[4..]);
            assert_eq!(verify("pass123", &hash).await, Verdict::MatchRehash, "{version}");
            assert_eq!(verify("pass124", &hash).await, Verdict::Mismatch, "{version}");
        }
        let endless = made.replacen("$04$", "$31$", 1);
        assert_eq!(verify("pass123", &endless).await, Verdict::Mismatch);
    }

    #[tokio::test]
    async fn weaker_argon2_is_to_be_replaced() {
        let weak = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8192, 1, 1, None).unwrap());
        let hash = weak.hash_password(b"pass123").unwrap().to_string();
        assert_eq!(verify("pass123", &hash).await, Verdict::MatchRehash);
    }

    #[tokio::test]
    async fn a_broken_hash_matches_nothing() {
        for hash in ["", "plain", "$2b$", "$2b$10$short", "$argon2id$v=19$m=19456", "$1$abc$def"] {
            assert_eq!(verify("pass123", hash).await, Verdict::Mismatch, "{hash}");
        }
    }

    #[test]
    fn nobody_costs_as_much_as_somebody() {
        // Not measured, for time is noise on a busy machine: the same algorithm with the same parameters.
        let wasted = waste("pass124").expect("it is hashed");
        assert!(is_current(&PasswordHash::new(&wasted).unwrap()), "{wasted}");
    }

    #[test]
    fn one_processor_is_left_to_live_traffic() {
        let processors = available_parallelism().map_or(1, NonZero::get);
        assert_eq!(HashLimits::default().at_once(), if processors > 1 { processors - 1 } else { 1 });
    }
}
