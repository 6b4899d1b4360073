//! The settings of tokens and passwords.

use std::{
    fmt,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use motience_settings::env::{self, Env};
use secrecy::{ExposeSecret, SecretString};

use super::{HashLimits, names::MAX_PASSWORD, random};

/// The secret that the documentation shows, and that everybody therefore knows.
pub const PLACEHOLDER_SECRET: &str = "your-secret-key-here";

/// Secrets that stand in examples everywhere, in lower case.
const PUBLISHED_SECRETS: [&str; 9] = [
    PLACEHOLDER_SECRET,
    "your-secret-key",
    "your-secret",
    "your_jwt_secret",
    "jwt-secret",
    "jwt_secret",
    "secret",
    "changeme",
    "change-me",
];

/// Where a node keeps the secret that it made, in its data folder.
const SECRET_FILE: &str = "jwt-secret";

/// Shortest secret in production, in bytes: as long as the HS256 digest.
const MIN_SECRET: usize = 32;

/// Longest leeway: within it a stolen token is not told from a lost answer.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// Longest life of a token: more is a mistake in the setting.
const MAX_TTL: Duration = Duration::from_secs(3650 * 86_400);

/// How tokens are made and which passwords are taken.
#[derive(Clone, Debug)]
pub struct Config {
    /// Secret that signs tokens.
    pub secret: SecretString,
    /// Whether the secret was made up at this start: tokens end with the process unless [`Config::keep_secret`] keeps it.
    pub generated: bool,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of a refresh token; at least that of an access token.
    pub refresh_ttl: Duration,
    /// How long after its use the same client is given the successor of a refresh token again. JWT_REFRESH_LEEWAY, 30 s.
    pub refresh_leeway: Duration,
    /// How many passwords are hashed at once, and how many wait for it.
    pub hashing: HashLimits,
    /// Shortest password, in characters.
    pub password_min_length: usize,
    /// Whether well-known passwords are refused.
    pub refuse_common: bool,
    /// Whether a new producer with a device may speak for that device only. STRICT_DEVICE, true in production.
    pub strict_device: bool,
    /// Whether bcrypt hashes of the first platform stay as they are instead of being replaced at a login. KEEP_LEGACY_HASHES, false.
    pub keep_legacy_hashes: bool,
}

impl Config {
    /// JWT_SECRET, JWT_EXPIRES_IN, JWT_REFRESH_EXPIRES_IN, PASSWORD_MIN_LENGTH and STRICT_DEVICE.
    ///
    /// In production there must be a secret of one's own; in development one is made up where it is absent.
    pub fn from_env(env: &Env, production: bool) -> Result<Self, env::Error> {
        let given = env.secret("JWT_SECRET");
        if production {
            check_secret(given.as_ref())?;
        }
        let generated = given.is_none();
        let secret = given.unwrap_or_else(|| random::hex(MIN_SECRET).into());
        let access_ttl = ttl(env, "JWT_EXPIRES_IN", Duration::from_secs(3600))?;
        let refresh_ttl = ttl(env, "JWT_REFRESH_EXPIRES_IN", Duration::from_secs(7 * 86_400))?;
        if refresh_ttl < access_ttl {
            return Err(env::Error::invalid("JWT_REFRESH_EXPIRES_IN", "must not be shorter than JWT_EXPIRES_IN"));
        }
        let password_min_length = env.parse("PASSWORD_MIN_LENGTH", if production { 12 } else { 6 })?;
        if !(1..=MAX_PASSWORD).contains(&password_min_length) {
            return Err(env::Error::invalid("PASSWORD_MIN_LENGTH", format_args!("must be from 1 to {MAX_PASSWORD}")));
        }
        let refresh_leeway = env.duration("JWT_REFRESH_LEEWAY", Duration::from_secs(30))?;
        if refresh_leeway > MAX_LEEWAY {
            return Err(env::Error::invalid("JWT_REFRESH_LEEWAY", "must be at most 5m"));
        }
        let (hashing, strict_device) = (hashing(env)?, env.flag("STRICT_DEVICE", production)?);
        let keep_legacy_hashes = env.flag("KEEP_LEGACY_HASHES", false)?;
        Ok(Self {
            secret,
            generated,
            access_ttl,
            refresh_ttl,
            refresh_leeway,
            hashing,
            password_min_length,
            refuse_common: production,
            strict_device,
            keep_legacy_hashes,
        })
    }

    /// Whether everybody knows the secret, because it stands in the documentation.
    pub fn is_published(&self) -> bool {
        is_published(self.secret.expose_secret())
    }

    /// An error where everybody knows the secret, for a listener that others than this machine reach: `at`, of the setting `port`.
    pub fn check_published(&self, port: &str, at: impl fmt::Display) -> Option<env::Error> {
        self.is_published().then(|| {
            let problem = format!(
                "is the documented placeholder, with which everybody can make tokens, and {at} ({port}) is open to the network: \
                 set a secret of your own, or leave it empty to have one made"
            );
            env::Error::invalid("JWT_SECRET", problem)
        })
    }

    /// Keeps a secret that was made up, or takes the one that an earlier start kept in `dir`, for its owner's eyes only. Its path.
    /// Whoever calls it must be the only process on the folder.
    pub fn keep_secret(&mut self, dir: &Path) -> Result<PathBuf, SecretFileError> {
        let path = dir.join(SECRET_FILE);
        let failed = |cause| SecretFileError { path: path.clone(), cause };
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() < MIN_SECRET => {
                let problem = format!("it has less than {MIN_SECRET} characters; remove it to have a new one, which ends all logins");
                return Err(failed(io::Error::other(problem)));
            }
            Ok(text) => {
                fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
                self.secret = text.trim().to_owned().into();
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let partial = path.with_extension("new");
                // A crash may have left one, which a new file's mode would not change.
                let _ = fs::remove_file(&partial);
                let write = || {
                    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
                    file.write_all(self.secret.expose_secret().as_bytes())?;
                    file.sync_all()?;
                    fs::rename(&partial, &path)
                };
                write().map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        }
        self.generated = false;
        Ok(path)
    }
}

/// The file of a node's own secret cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the secret that signs tokens cannot be kept in {} (DATA_DIR): {cause}", path.display())]
pub struct SecretFileError {
    path: PathBuf,
    cause: io::Error,
}

fn is_published(secret: &str) -> bool {
    PUBLISHED_SECRETS.contains(&secret.to_ascii_lowercase().as_str())
}

fn hashing(env: &Env) -> Result<HashLimits, env::Error> {
    let default = HashLimits::default();
    let limits = HashLimits {
        at_once: env.parse("PASSWORD_HASHES", default.at_once)?,
        queue: env.parse("PASSWORD_QUEUE", default.queue)?,
        wait: env.duration("PASSWORD_WAIT", default.wait)?,
    };
    for (name, wrong) in
        [("PASSWORD_HASHES", limits.at_once == 0), ("PASSWORD_QUEUE", limits.queue < 2), ("PASSWORD_WAIT", limits.wait.is_zero())]
    {
        if wrong {
            return Err(env::Error::invalid(name, "is too small: at least 1 hash at once, 2 that wait, and some time"));
        }
    }
    Ok(limits)
}

fn check_secret(secret: Option<&SecretString>) -> Result<(), env::Error> {
    let problem = match secret.map(ExposeSecret::expose_secret) {
        None => "must be set in production",
        Some(secret) if is_published(secret) => "is still the documented placeholder; production needs a secret of its own",
        Some(secret) if secret.len() < MIN_SECRET => "must have at least 32 bytes in production",
        Some(_) => return Ok(()),
    };
    Err(env::Error::invalid("JWT_SECRET", problem))
}

/// Tokens count whole seconds, so a shorter life would be none.
fn ttl(env: &Env, name: &str, default: Duration) -> Result<Duration, env::Error> {
    let ttl = env.duration(name, default)?;
    if ttl < Duration::from_secs(1) || ttl > MAX_TTL {
        return Err(env::Error::invalid(name, "must be from 1 second to 10 years"));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)], production: bool) -> Result<Config, env::Error> {
        Config::from_env(&Env::from_pairs(pairs.iter().copied()), production)
    }

    #[test]
    fn development_needs_nothing() {
        let (a, b) = (config(&[], false).unwrap(), config(&[], false).unwrap());
        assert!(a.generated && a.secret.expose_secret().len() >= MIN_SECRET);
        assert_ne!(a.secret.expose_secret(), b.secret.expose_secret());
        assert_eq!((a.access_ttl.as_secs(), a.refresh_ttl.as_secs()), (3600, 604_800));
        assert_eq!((a.password_min_length, a.refuse_common), (6, false));
        let placeholder = config(&[("JWT_SECRET", PLACEHOLDER_SECRET)], false).unwrap();
        assert!(!placeholder.generated);
    }

    #[test]
    fn a_secret_that_was_made_is_kept_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = config(&[], false).unwrap();
        let path = first.keep_secret(dir.path()).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(), first.generated), (0o600, false));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut second = config(&[], false).unwrap();
        second.keep_secret(dir.path()).unwrap();
        assert_eq!(second.secret.expose_secret(), first.secret.expose_secret());
        assert_eq!(mode(), 0o600);
        fs::write(&path, "short").unwrap();
        let error = config(&[], false).unwrap().keep_secret(dir.path()).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && !error.contains("short"), "{error}");
    }

    #[test]
    fn production_needs_a_secret_of_its_own() {
        let short = "x".repeat(31);
        for secret in ["", PLACEHOLDER_SECRET, "Your-Secret-Key-Here", short.as_str()] {
            let error = config(&[("JWT_SECRET", secret)], true).unwrap_err().to_string();
            assert!(error.starts_with("JWT_SECRET: "), "{error}");
            assert!(!error.contains(&short));
        }
        let good = config(&[("JWT_SECRET", &"x".repeat(32)), ("JWT_EXPIRES_IN", "15m")], true).unwrap();
        assert_eq!((good.generated, good.access_ttl.as_secs(), good.password_min_length, good.refuse_common), (false, 900, 12, true));
    }

    #[test]
    fn unusable_settings_are_named() {
        for (name, value) in [
            ("JWT_EXPIRES_IN", "500ms"),
            ("JWT_EXPIRES_IN", "never"),
            ("JWT_REFRESH_EXPIRES_IN", "30m"),
            ("JWT_REFRESH_EXPIRES_IN", "99999d"),
            ("PASSWORD_MIN_LENGTH", "129"),
            ("PASSWORD_MIN_LENGTH", "0"),
            ("PASSWORD_HASHES", "0"),
            ("PASSWORD_QUEUE", "1"),
            ("PASSWORD_WAIT", "0s"),
            ("JWT_REFRESH_LEEWAY", "1h"),
        ] {
            let error = config(&[(name, value)], false).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = config(&[("JWT_SECRET", "hunter2hunter2hunter2hunter2hunter2")], true).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
