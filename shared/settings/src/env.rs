//! Settings from the environment, each read by its owner, each error naming its variable.

mod misspelt;

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::{IntErrorKind, ParseFloatError, ParseIntError},
    path::Path,
    str::FromStr,
    time::Duration,
};

use secrecy::SecretString;

use crate::dotenv;

/// Secrets that may be in files of their own, as container engines and systemd hand them over: the variable with the file's path, and
/// the one that it stands for.
const SECRET_FILES: [(&str, &str); 5] = [
    ("JWT_SECRET_FILE", "JWT_SECRET"),
    ("DB_PASSWORD_FILE", "DB_PASSWORD"),
    ("DATABASE_URL_FILE", "DATABASE_URL"),
    ("REDIS_URL_FILE", "REDIS_URL"),
    ("REDIS_PASSWORD_FILE", "REDIS_PASSWORD"),
];

/// What stands for a setting that is wrong or missing and has no default while the others are looked at, so that a mistake in it hides
/// none of theirs and makes none up. Nothing runs on these: an error is noted whenever one is used.
const STAND_INS: [(&str, &str); 6] = [
    ("JWT_SECRET", "stands-in-for-a-secret-of-at-least-32-bytes"),
    ("DATABASE_URL", "postgres://stand:in@localhost/motience"),
    ("DB_PASSWORD", "stand-in"),
    ("REDIS_URL", "redis://:stand-in@localhost"),
    ("TLS_CERT", "stand-in.pem"),
    ("TLS_KEY", "stand-in.pem"),
];

/// The two names of the environment's variable; the first wins.
const ENVIRONMENT: [&str; 2] = ["MOTIENCE_ENV", "NODE_ENV"];

/// The variables of one process: its environment over its `.env` file.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

/// How careful a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// For trying it out: secrets and certificates are made where they are missing, and only this machine reaches it.
    Development,
    /// For a network: refuses every default that is not safe there.
    Production,
}

/// The text names no environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither development (dev, local, test, testing, ci) nor production (prod, live, staging, stage)")]
pub struct UnknownEnvironment;

impl FromStr for Environment {
    type Err = UnknownEnvironment;

    /// Case does not matter. A staging platform is reached by others, so it counts as production.
    fn from_str(text: &str) -> Result<Self, UnknownEnvironment> {
        match text.to_ascii_lowercase().as_str() {
            "development" | "dev" | "local" | "test" | "testing" | "ci" => Ok(Self::Development),
            "production" | "prod" | "live" | "staging" | "stage" => Ok(Self::Production),
            _ => Err(UnknownEnvironment),
        }
    }
}

/// A setting that cannot be used. The text is for the operator and never carries a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value cannot be read or is out of bounds.
    #[error("{variable}: {problem}")]
    Invalid {
        /// Name of the variable.
        variable: String,
        /// What is wrong, in plain words.
        problem: String,
    },
    /// The `.env` file is there but cannot be read.
    #[error(transparent)]
    File(#[from] dotenv::Error),
    /// Several settings that cannot be used, one a line.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<Error>),
}

impl Error {
    /// An error about `variable`.
    pub fn invalid(variable: &str, problem: impl fmt::Display) -> Self {
        Self::Invalid { variable: variable.to_owned(), problem: problem.to_string() }
    }

    /// All of them as one.
    pub fn all(errors: Vec<Self>) -> Result<(), Self> {
        match <[Self; 1]>::try_from(errors) {
            Ok([error]) => Err(error),
            Err(errors) if errors.is_empty() => Ok(()),
            Err(errors) => Err(Self::Several(errors)),
        }
    }
}

impl Env {
    /// The process environment, completed by `.env` in the working folder where there is one.
    pub fn load() -> Result<Self, Error> {
        let vars = dotenv::read(Path::new(".env"))?.unwrap_or_default().into_iter().collect();
        let process = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        // Each by itself: a secret in the process's environment wins over a file that `.env` names.
        let mut env = Self(vars).with_secret_files()?;
        env.0.extend(Self(process.collect()).with_secret_files()?.0);
        Ok(env)
    }

    /// The same with each secret that is in a file of its own, without the line break at the file's end.
    fn with_secret_files(mut self) -> Result<Self, Error> {
        for (name, secret) in SECRET_FILES {
            let Some(path) = self.get(name).map(str::to_owned) else { continue };
            if self.has(secret) {
                return Err(Error::invalid(name, format_args!("and {secret} are both set: keep one of them")));
            }
            let text = std::fs::read_to_string(&path).map_err(|e| Error::invalid(name, format_args!("{path} cannot be read: {e}")))?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.trim().is_empty() {
                return Err(Error::invalid(name, format_args!("{path} is empty")));
            }
            self.0.insert(secret.to_owned(), text.to_owned());
        }
        Ok(self)
    }

    /// Reads settings with `read` and notes in `errors` everything that is wrong with them, not only the first: whatever was wrong is
    /// left at its default, or something stands for it where it has none, and they are read again. `None` where that does not help.
    pub fn gather<T>(&self, errors: &mut Vec<Error>, read: impl Fn(&Self) -> Result<T, Error>) -> Option<T> {
        let mut env = self.clone();
        let mut wrong = BTreeSet::new();
        loop {
            let found = match read(&env) {
                Ok(settings) => return Some(settings),
                Err(Error::Several(several)) => several,
                Err(error) => vec![error],
            };
            let mut mended = false;
            for error in found {
                let variable = match &error {
                    Error::Invalid { variable, .. } => Some(variable.clone()),
                    _ => None,
                };
                let is_new = variable.clone().is_none_or(|variable| wrong.insert(variable));
                // Two parts may read the same variable.
                if is_new && !errors.iter().any(|known| known.to_string() == error.to_string()) {
                    errors.push(error);
                }
                mended |= is_new && variable.is_some_and(|variable| env.mend(&variable));
            }
            if !mended {
                return None;
            }
        }
    }

    /// Puts something in the place of a wrong setting, or leaves it at its default; whether that changes anything.
    fn mend(&mut self, variable: &str) -> bool {
        match STAND_INS.iter().find(|(name, _)| *name == variable) {
            Some((name, value)) => {
                self.0.insert((*name).to_owned(), (*value).to_owned());
                true
            }
            None => self.0.remove(variable).is_some(),
        }
    }

    /// Variables that nothing reads but that look like settings, each as a sentence.
    pub fn misspelt(&self) -> Vec<String> {
        let told = |(name, meant): (String, Option<&str>)| match meant {
            Some(meant) => format!("{name}: is no setting; did you mean {meant}?"),
            None => format!("{name}: is no setting"),
        };
        misspelt::misspelt(self.0.keys().map(String::as_str)).into_iter().map(told).collect()
    }

    /// Exactly these variables; for tests and for embedding.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// The same variables with `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The value of `name`; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    /// Whether `name` has a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of `name` as `T`, or `default` where it is absent.
    pub fn parse<T>(&self, name: &str, default: T) -> Result<T, Error>
    where
        T: FromStr,
        T::Err: fmt::Display + 'static,
    {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|e| Error::invalid(name, format_args!("'{value}' cannot be used: {}", words::<T>(&e)))),
        }
    }

    /// `true/1/yes/on` or `false/0/no/off`.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Error> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some("false" | "0" | "no" | "off") => Ok(false),
            Some(other) => Err(Error::invalid(name, format_args!("'{other}' is neither true nor false"))),
        }
    }

    /// A duration such as `500ms`, `30s`, `15m`, `1h`, `7d`; a bare number counts seconds.
    pub fn duration(&self, name: &str, default: Duration) -> Result<Duration, Error> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let wrong = || Error::invalid(name, format_args!("'{value}' is no duration; write one like 500ms, 30s, 15m, 1h or 7d"));
        let (number, unit) = split_unit(value);
        let millis_each: u64 = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(millis_each).map(Duration::from_millis).ok_or_else(wrong)
    }

    /// A number of bytes such as `4096`, `64KiB`, `16MiB`.
    pub fn bytes(&self, name: &str, default: usize) -> Result<usize, Error> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let wrong = || Error::invalid(name, format_args!("'{value}' is no size; write one like 4096, 64KiB or 16MiB"));
        let (number, unit) = split_unit(value);
        let each: usize = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: usize = number.parse().map_err(|_| wrong())?;
        number.checked_mul(each).ok_or_else(wrong)
    }

    /// A comma-separated list; absent is empty.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.get(name).map(|v| v.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()).unwrap_or_default()
    }

    /// A value that is never printed.
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.get(name).map(SecretString::from)
    }

    /// MOTIENCE_ENV, or else NODE_ENV; development without both. A name that nobody knows is refused in either.
    pub fn environment(&self) -> Result<Environment, Error> {
        let [first, second] = ENVIRONMENT.map(|name| self.get(name).map(|_| self.parse(name, Environment::Production)).transpose());
        Ok(first?.or(second?).unwrap_or(Environment::Development))
    }

    /// Whether this is a production node. One whose environment nobody knows counts as one, should anybody ask before it is refused.
    pub fn production(&self) -> bool {
        !matches!(self.environment(), Ok(Environment::Development))
    }
}

impl fmt::Debug for Env {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a text is no `T`. What the standard library says of numbers speaks of its types.
fn words<T: FromStr<Err: fmt::Display + 'static>>(error: &T::Err) -> String {
    let any: &dyn Any = error;
    match any.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        // As large as an unsigned number of its size can be; those of our settings are unsigned.
        Some(IntErrorKind::PosOverflow) => {
            match u32::try_from(128 - 8 * size_of::<T>().min(16)).ok().and_then(|bits| u128::MAX.checked_shr(bits)) {
                Some(most) => format!("it is more than {most}"),
                None => "it is too large".to_owned(),
            }
        }
        Some(IntErrorKind::Zero) => "it must be more than 0".to_owned(),
        Some(_) => "it is no whole number".to_owned(),
        None if any.is::<ParseFloatError>() => "it is no number".to_owned(),
        None => error.to_string(),
    }
}

fn split_unit(value: &str) -> (&str, &str) {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    (&value[..end], value[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_units() {
        let env = Env::from_pairs([("A", "1h"), ("B", "500ms"), ("C", "64KiB"), ("D", "7"), ("E", " "), ("F", "a, b,,c")]);
        assert_eq!(env.duration("A", Duration::ZERO).unwrap(), Duration::from_secs(3600));
        assert_eq!(env.duration("B", Duration::ZERO).unwrap(), Duration::from_millis(500));
        assert_eq!(env.duration("D", Duration::ZERO).unwrap(), Duration::from_secs(7));
        assert_eq!(env.bytes("C", 0).unwrap(), 65536);
        assert!(!env.has("E"));
        assert_eq!(env.list("F"), ["a", "b", "c"]);
        assert!(env.flag("Z", true).unwrap());
    }

    #[test]
    fn an_error_names_its_variable() {
        let env = Env::from_pairs([("AP_PORT", "http"), ("T", "5 weeks"), ("X", "maybe")]);
        assert!(env.parse::<u16>("AP_PORT", 3001).unwrap_err().to_string().starts_with("AP_PORT: 'http' cannot be used"));
        assert!(env.duration("T", Duration::ZERO).unwrap_err().to_string().starts_with("T: "));
        assert!(env.flag("X", false).is_err());
    }

    #[test]
    fn a_number_that_is_none_is_told_in_plain_words() {
        let env = Env::from_pairs([("PORT", "99999"), ("WORD", "ten"), ("MINUS", "-1"), ("FLOAT", "x")]);
        let told = |outcome: Result<u16, Error>| outcome.unwrap_err().to_string();
        assert_eq!(told(env.parse("PORT", 1)), "PORT: '99999' cannot be used: it is more than 65535");
        assert_eq!(told(env.parse("WORD", 1)), "WORD: 'ten' cannot be used: it is no whole number");
        assert_eq!(told(env.parse("MINUS", 1)), "MINUS: '-1' cannot be used: it is no whole number");
        assert_eq!(env.parse::<f64>("FLOAT", 1.0).unwrap_err().to_string(), "FLOAT: 'x' cannot be used: it is no number");
    }

    #[test]
    fn an_environment_that_nobody_knows_is_not_development() {
        let environment = |value: &str| Env::from_pairs([("NODE_ENV", value)]).environment();
        for name in ["production", "PRODUCTION", "Production", " prod ", "live", "staging"] {
            assert_eq!(environment(name).unwrap(), Environment::Production, "{name}");
        }
        for name in ["development", "Dev", "test", ""] {
            assert_eq!(environment(name).unwrap(), Environment::Development, "{name}");
        }
        for name in ["produktion", "prd", "true", "1"] {
            assert!(environment(name).unwrap_err().to_string().starts_with("NODE_ENV: '"), "{name}");
            assert!(Env::from_pairs([("NODE_ENV", name)]).production());
        }
        let both = Env::from_pairs([("MOTIENCE_ENV", "prod"), ("NODE_ENV", "development")]);
        assert_eq!(both.environment().unwrap(), Environment::Production);
        assert!(both.with("NODE_ENV", "devel").environment().is_err());
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let env = Env::from_pairs([("A", "x"), ("B", "5"), ("C", "soon")]);
        let read = |env: &Env| Ok((env.parse::<u16>("A", 1)?, env.parse::<u16>("B", 2)?, env.duration("C", Duration::ZERO)?));
        let mut errors = Vec::new();
        assert_eq!(env.gather(&mut errors, read), Some((1, 5, Duration::ZERO)));
        let told = Error::all(errors).unwrap_err().to_string();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with("A: ") && lines[1].starts_with("C: "), "{told}");
        // One that is missing hides no other where something can stand for it, and several in one answer are like one.
        let mut errors = Vec::new();
        let read = |env: &Env| match (env.get("JWT_SECRET"), env.parse::<u16>("A", 1)) {
            (None, Err(wrong)) => Err(Error::Several(vec![Error::invalid("JWT_SECRET", "is missing"), wrong])),
            (None, _) => Err(Error::invalid("JWT_SECRET", "is missing")),
            (Some(_), port) => Ok((port?, env.duration("C", Duration::ZERO)?)),
        };
        assert_eq!(env.gather(&mut errors, read), Some((1, Duration::ZERO)));
        let told = Error::all(errors).unwrap_err().to_string();
        assert_eq!(told.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(), ["JWT_SECRET", "A", "C"], "{told}");
        // Any other that is missing cannot be left at its default.
        let mut errors = Vec::new();
        assert_eq!(env.gather(&mut errors, |_| Err::<(), _>(Error::invalid("D", "is missing"))), None);
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, " with blanks \r\n").unwrap();
        let path = path.to_str().unwrap();
        let env = Env::from_pairs([("DB_PASSWORD_FILE", path)]).with_secret_files().unwrap();
        assert_eq!(env.0["DB_PASSWORD"], " with blanks ");
        let refused = |env: Env| env.with_secret_files().unwrap_err().to_string();
        assert!(refused(Env::from_pairs([("JWT_SECRET_FILE", path), ("JWT_SECRET", "hunter2")])).contains("JWT_SECRET_FILE: "));
        assert!(refused(Env::from_pairs([("REDIS_URL_FILE", "/nowhere")])).starts_with("REDIS_URL_FILE: /nowhere cannot be read"));
        std::fs::write(path, "\n").unwrap();
        assert!(refused(Env::from_pairs([("DATABASE_URL_FILE", path)])).contains("is empty"));
    }

    #[test]
    fn debug_shows_no_value() {
        let env = Env::from_pairs([("JWT_SECRET", "hunter2hunter2")]);
        assert_eq!(format!("{env:?}"), r#"{"JWT_SECRET"}"#);
    }
}
