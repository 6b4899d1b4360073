//! Settings: environment variables and `.env`, each declared once.
//!
//! A declaration in [`settings!`] gives a field of a struct with its rustdoc, the parser, the default, the check, and the lines of
//! `.env.example`. [`Env`] holds the variables; a [`Reader`] makes settings of them and notes everything that is wrong.

mod declare;
mod example;
mod misspelt;
mod reader;
mod setting;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

pub use example::{Subject, example};
pub use reader::{Group, Reader};
pub use setting::{Check, Setting};
pub use value::{Size, Value, one_of};

use crate::dotenv;
pub use crate::settings;

/// The variables of one process: its environment, and its `.env` file below it.
#[derive(Clone, Default)]
pub struct Env {
    process: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
}

settings! {
    /// How careful a node is, by either of two names.
    #[derive(Clone, Copy, Debug)]
    pub struct Mode {
        /// `development` (also dev, local, test, testing, ci) or `production` (also prod, live, staging, stage). Any other name is refused.
        /// Production refuses defaults that are not safe on a network; docs/security.md lists them.
        NODE_ENV = "development" => node_env: Environment;
        /// Another name of NODE_ENV, which takes precedence over it.
        MOTIENCE_ENV, example "development" => motience_env: Option<Environment>;
    }
}

/// How careful a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// For trying it out: secrets and certificates are made where they are missing, and only this machine reaches it.
    Development,
    /// For a network: refuses every default that is not safe there.
    Production,
}

impl Value for Environment {
    /// Case does not matter. Others reach a staging platform, so it counts as production.
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "development" | "dev" | "local" | "test" | "testing" | "ci" => Ok(Self::Development),
            "production" | "prod" | "live" | "staging" | "stage" => Ok(Self::Production),
            _ => Err("must be development (dev, local, test, testing, ci) or production (prod, live, staging, stage)".to_owned()),
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
        /// Problem in plain words.
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

    /// Whether this is about a variable whose name begins with one of these.
    pub fn is_about(&self, names: &[&str]) -> bool {
        matches!(self, Self::Invalid { variable, .. } if names.iter().any(|name| variable.starts_with(name)))
    }
}

impl Env {
    /// The process environment, and `.env` in the working folder where there is one.
    pub fn load() -> Result<Self, Error> {
        let file = dotenv::read(Path::new(".env"))?.unwrap_or_default().into_iter().collect();
        let process = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Ok(Self { process: process.collect(), file })
    }

    /// Exactly these variables; for tests and for embedding.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { process: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect(), file: BTreeMap::new() }
    }

    /// These variables with `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.process.insert(name.to_owned(), value.into());
        self
    }

    /// These variables with `name` set to `value` in the `.env` file.
    #[must_use]
    pub fn with_in_file(mut self, name: &str, value: impl Into<String>) -> Self {
        self.file.insert(name.to_owned(), value.into());
        self
    }

    /// The value of `name` without the blanks around it; an empty one counts as absent. The process's own variable hides that of `.env`,
    /// even where it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        given(self.layer(&[name]).get(name))
    }

    /// The value of `name` in the `.env` file, whatever the process's own says.
    pub fn get_in_file(&self, name: &str) -> Option<&str> {
        given(self.file.get(name))
    }

    /// Whether `name` has a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A secret: the value of `name` as it is, or the contents of the file that `name_FILE` names, as container engines and systemd hand
    /// secrets over; without the line break at its end.
    pub fn secret(&self, name: &str) -> Result<Option<String>, Error> {
        let by_file = format!("{name}_FILE");
        let layer = self.layer(&[name, &by_file]);
        let value = layer.get(name).map(|value| value.trim_end_matches(['\r', '\n'])).filter(|value| !value.trim().is_empty());
        match (value, given(layer.get(&by_file))) {
            (value, None) => Ok(value.map(str::to_owned)),
            (Some(_), Some(_)) => Err(Error::invalid(&by_file, format_args!("and {name} are both set: keep one of them"))),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| Error::invalid(&by_file, format_args!("'{path}' cannot be read: {e}")))?;
                match text.trim_end_matches(['\r', '\n']) {
                    text if text.trim().is_empty() => Err(Error::invalid(&by_file, format_args!("'{path}' is empty"))),
                    text => Ok(Some(text.to_owned())),
                }
            }
        }
    }

    /// Reads settings. The error has everything that is wrong with them.
    pub fn read<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, Error> {
        let (settings, errors) = self.inspect(read);
        match <[Error; 1]>::try_from(errors) {
            Ok([error]) => Err(error),
            Err(errors) if errors.is_empty() => Ok(settings),
            Err(errors) => Err(Error::Several(errors)),
        }
    }

    /// Reads settings, and everything that is wrong with them. Where a setting is wrong, its default stands in for it.
    pub fn inspect<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> T) -> (T, Vec<Error>) {
        let mut reader = Reader::new(self);
        let settings = read(&mut reader);
        (settings, reader.finish())
    }

    /// Those of these variables that `newer` gives another value.
    pub fn differences(&self, newer: &Self, names: &BTreeSet<&'static str>) -> Vec<&'static str> {
        let differs = |name: &&'static str| {
            let by_file = format!("{name}_FILE");
            self.get(name) != newer.get(name) || self.get(&by_file) != newer.get(&by_file)
        };
        names.iter().copied().filter(differs).collect()
    }

    /// Variables that nothing reads but that look like settings, each as a sentence.
    pub fn misspelt(&self) -> Vec<String> {
        let sentence = |(name, meant): (String, Option<&str>)| match meant {
            Some(meant) => format!("{name}: is not a setting; did you mean {meant}?"),
            None => format!("{name}: is not a setting"),
        };
        let names = self.process.keys().chain(self.file.keys().filter(|name| !self.process.contains_key(*name)));
        misspelt::misspelt(names.map(String::as_str)).into_iter().map(sentence).collect()
    }

    /// Where to look for something that any of these variables sets.
    fn layer(&self, names: &[&str]) -> &BTreeMap<String, String> {
        if names.iter().any(|name| self.process.contains_key(*name)) { &self.process } else { &self.file }
    }
}

fn given(value: Option<&String>) -> Option<&str> {
    value.map(|value| value.trim()).filter(|value| !value.is_empty())
}

impl fmt::Debug for Env {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.process.keys().chain(self.file.keys())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_hides_the_file_even_where_it_is_empty() {
        let env = Env::from_pairs([("A", "1"), ("B", " ")]).with_in_file("A", "2").with_in_file("B", "2").with_in_file("C", " 3 ");
        assert_eq!((env.get("A"), env.get("B"), env.get("C")), (Some("1"), None, Some("3")));
        assert_eq!(env.get_in_file("A"), Some("2"));
    }

    #[test]
    fn a_difference_is_one_of_values_that_count() {
        let before = Env::from_pairs([("A", "1")]).with_in_file("A", "2").with_in_file("B", "1").with_in_file("S_FILE", "old");
        let after = Env::from_pairs([("A", "1")]).with_in_file("A", "3").with_in_file("C", "1").with_in_file("S_FILE", "new");
        assert_eq!(before.differences(&after, &BTreeSet::from(["A", "B", "C", "D", "S"])), ["B", "C", "S"]);
    }

    #[test]
    fn a_secret_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, " with blanks \r\n").unwrap();
        let path = path.to_str().unwrap();
        let secret = |env: &Env| env.secret("S").map_err(|e| e.to_string());
        let named = Env::from_pairs([("S_FILE", path)]);
        assert_eq!(secret(&named).unwrap().unwrap(), " with blanks ");
        assert_eq!(secret(&named.clone().with_in_file("S", "hunter2")).unwrap().unwrap(), " with blanks ", "the process hides the file");
        assert_eq!(secret(&Env::from_pairs([("S", "own\n")]).with_in_file("S_FILE", path)).unwrap().unwrap(), "own");
        assert_eq!(secret(&named.clone().with("S", "")).unwrap().unwrap(), " with blanks ", "an empty one is absent");
        assert_eq!(secret(&Env::default()).unwrap(), None);
        let both = secret(&named.clone().with("S", "hunter2")).unwrap_err();
        assert!(both.starts_with("S_FILE: and S are both set") && !both.contains("hunter2"), "{both}");
        assert!(secret(&Env::from_pairs([("S_FILE", "/nowhere")])).unwrap_err().starts_with("S_FILE: '/nowhere' cannot be read"));
        std::fs::write(path, "\n").unwrap();
        assert!(secret(&named).unwrap_err().contains("is empty"));
    }

    #[test]
    fn debug_shows_no_value() {
        let env = Env::from_pairs([("JWT_SECRET", "hunter2hunter2")]).with_in_file("DB_PASSWORD", "hunter2");
        assert_eq!(format!("{env:?}"), r#"{"JWT_SECRET", "DB_PASSWORD"}"#);
    }
}
