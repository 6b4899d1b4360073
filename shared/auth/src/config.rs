//! The settings of tokens and passwords.

use std::{
    fmt,
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use motience_settings::env::{self, Env, Reader, settings};
use secrecy::{ExposeSecret, SecretString};

use super::{HashLimits, random};

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
pub const SECRET_FILE: &str = "jwt-secret";

/// Shortest secret in production, in bytes: as long as the HS256 digest.
const MIN_SECRET: usize = 32;

settings! {
    /// Settings of tokens and passwords, as they are written.
    #[derive(Clone, Debug)]
    pub struct Settings {
        /// Signs the tokens. All nodes must have the same one, of at least 32 bytes in production. If unset, a development node without
        /// Redis makes one and keeps it in DATA_DIR.
        JWT_SECRET => secret: Option<SecretString>;
        /// Folder of keys that sign tokens in place of JWT_SECRET, whose public halves are at `/.well-known/jwks.json`
        /// (`motience-server token-keys rotate` makes them). Read again every half minute. All nodes must have the same ones, and JWT_SECRET.
        JWT_KEYS => keys: Option<PathBuf>;
        /// Audience (`aud`) of tokens that a key of JWT_KEYS signs.
        JWT_AUDIENCE = "motience" => audience: String;
        /// How long an access token lives. Connections end with their token.
        JWT_EXPIRES_IN = "1h" => access_ttl: Duration, "1s"..="3650d";
        /// How long a refresh token lives; at least as long as an access token.
        JWT_REFRESH_EXPIRES_IN = "7d" => refresh_ttl: Duration, "1s"..="3650d";
        /// How long after its use the same client is given the successor of a refresh token again: for two tabs, and for answers that were
        /// lost. Within it a stolen token is not told from a lost answer.
        JWT_REFRESH_LEEWAY = "30s" => refresh_leeway: Duration, "0s"..="5m";
        /// Shortest password, in characters.
        PASSWORD_MIN_LENGTH = "6", production "12" => password_min_length: usize, "1"..="128";
        /// Whether new producers that name a device may speak for that device only (`wrong_device`).
        STRICT_DEVICE = "false", production "true" => strict_device: bool;
        /// Whether bcrypt hashes of an earlier Motience stay as they are, so that the way back stays open, instead of being replaced by
        /// argon2id at the first login.
        KEEP_LEGACY_HASHES = "false" => keep_legacy_hashes: bool;
    }
    with {
        /// How many passwords are hashed at once, and how many wait for it.
        hashing: HashLimits,
    }
}

/// How tokens are made and which passwords are taken.
#[derive(Clone, Debug)]
pub struct Config {
    /// Secret that signs tokens.
    pub secret: SecretString,
    /// Folder of keys that sign tokens in its place.
    pub keys: Option<PathBuf>,
    /// Audience of tokens that such a key signs.
    pub audience: String,
    /// Whether the secret was made up at this start: tokens end with the process unless [`Config::keep_secret`] keeps it.
    pub generated: bool,
    /// Life of an access token.
    pub access_ttl: Duration,
    /// Life of a refresh token; at least that of an access token.
    pub refresh_ttl: Duration,
    /// How long after its use the same client is given the successor of a refresh token again.
    pub refresh_leeway: Duration,
    /// How many passwords are hashed at once, and how many wait for it.
    pub hashing: HashLimits,
    /// Shortest password, in characters.
    pub password_min_length: usize,
    /// Whether well-known passwords are refused.
    pub refuse_common: bool,
    /// Whether a new producer with a device may speak for that device only.
    pub strict_device: bool,
    /// Whether imported bcrypt hashes stay as they are instead of being replaced at a login.
    pub keep_legacy_hashes: bool,
}

impl Config {
    /// Reads the settings.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        env.read(Self::read)
    }

    /// Reads the settings. In production there must be a secret of one's own; in development one is made up where it is absent.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let production = reader.production();
        let settings: Settings = reader.group();
        if production {
            check_secret(reader, settings.secret.as_ref());
        }
        if settings.refresh_ttl < settings.access_ttl {
            reader.wrong("JWT_REFRESH_EXPIRES_IN", "must not be shorter than JWT_EXPIRES_IN");
        }
        Self {
            generated: settings.secret.is_none(),
            secret: settings.secret.unwrap_or_else(|| random::hex(MIN_SECRET).into()),
            keys: settings.keys,
            audience: settings.audience,
            access_ttl: settings.access_ttl,
            refresh_ttl: settings.refresh_ttl,
            refresh_leeway: settings.refresh_leeway,
            hashing: settings.hashing,
            password_min_length: settings.password_min_length,
            refuse_common: production,
            strict_device: settings.strict_device,
            keep_legacy_hashes: settings.keep_legacy_hashes,
        }
    }

    /// Whether everybody knows the secret, because it stands in the documentation.
    pub fn is_published(&self) -> bool {
        is_published(self.secret.expose_secret())
    }

    /// Refuses a secret that everybody knows, for a listener that others than this machine reach: `at`, of the setting `port`.
    pub fn check_published(&self, reader: &mut Reader<'_>, port: &str, at: impl fmt::Display) {
        if self.is_published() {
            let problem = format!(
                "is the documented placeholder, with which everybody can make tokens, and {at} ({port}) is open to the network: \
                 set a secret of your own, or leave it empty to have one made"
            );
            reader.wrong("JWT_SECRET", problem);
        }
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

fn check_secret(reader: &mut Reader<'_>, secret: Option<&SecretString>) {
    let problem = match secret.map(ExposeSecret::expose_secret) {
        None => "must be set in production",
        Some(secret) if is_published(secret) => "is still the documented placeholder; production needs a secret of its own",
        Some(secret) if secret.len() < MIN_SECRET => "must have at least 32 bytes in production",
        Some(_) => return,
    };
    reader.wrong("JWT_SECRET", problem);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)], production: bool) -> Result<Config, env::Error> {
        let env = Env::from_pairs(pairs.iter().copied());
        Config::from_env(&if production { env.with("MOTIENCE_ENV", "production") } else { env })
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
