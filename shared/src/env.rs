//! Settings from the environment, each read by its owner, each error naming its variable.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, time::Duration};

use secrecy::SecretString;

/// The variables of one process: its environment over its `.env` file.
#[derive(Clone, Default)]
pub struct Env(BTreeMap<String, String>);

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
    #[error(".env: {0}")]
    File(String),
}

impl Error {
    /// An error about `variable`.
    pub fn invalid(variable: &str, problem: impl fmt::Display) -> Self {
        Self::Invalid { variable: variable.to_owned(), problem: problem.to_string() }
    }
}

impl Env {
    /// The process environment, completed by `.env` in the working folder where there is one.
    pub fn load() -> Result<Self, Error> {
        let mut vars = BTreeMap::new();
        if Path::new(".env").exists() {
            let file = dotenvy::from_path_iter(".env").map_err(|e| Error::File(e.to_string()))?;
            for pair in file {
                // dotenvy's parse error quotes the line, which may hold a secret.
                let (name, value) = pair.map_err(|_| Error::File("a line is not NAME=value".to_owned()))?;
                vars.insert(name, value);
            }
        }
        vars.extend(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))));
        Ok(Self(vars))
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
        T::Err: fmt::Display,
    {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|e| Error::invalid(name, format_args!("'{value}' cannot be used: {e}"))),
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

    /// Whether this is a production node: MOTIENCE_ENV, or else NODE_ENV, is `production`.
    pub fn production(&self) -> bool {
        self.get("MOTIENCE_ENV").or_else(|| self.get("NODE_ENV")) == Some("production")
    }
}

impl fmt::Debug for Env {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
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
    fn debug_shows_no_value() {
        let env = Env::from_pairs([("JWT_SECRET", "hunter2hunter2")]);
        assert_eq!(format!("{env:?}"), r#"{"JWT_SECRET"}"#);
    }
}
