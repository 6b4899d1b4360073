//! Settings that cannot work: every mistake is noted, and all are reported at once.

use std::{fmt::Display, path::Path};

use motience_settings::env;

/// Settings that cannot work, one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Error(Vec<String>);

impl From<env::Error> for Error {
    fn from(error: env::Error) -> Self {
        Self(error.to_string().lines().map(str::to_owned).collect())
    }
}

/// The mistakes found so far. A wrong setting counts as absent from then on, so that it hides no other.
#[derive(Debug, Default)]
pub(super) struct Mistakes<'p> {
    file: Option<&'p Path>,
    found: Vec<String>,
}

impl<'p> Mistakes<'p> {
    /// Mistakes of settings from this file, or from none.
    pub(super) fn of(file: Option<&'p Path>) -> Self {
        Self { file, found: Vec::new() }
    }

    /// Notes what is wrong with a setting that the file, the environment or the command line may have.
    pub(super) fn setting<T>(&mut self, setting: &str, read: Result<T, impl Display>) -> Option<T> {
        read.map_err(|problem| self.found.push(format!("{setting} {problem}"))).ok()
    }

    /// Notes what is wrong with a key that only the file has.
    pub(super) fn key<T>(&mut self, key: impl Display, read: Result<T, impl Display>) -> Option<T> {
        let file = self.file.map(|path| format!("{}: ", path.display())).unwrap_or_default();
        read.map_err(|problem| self.found.push(format!("{file}{key} {problem}"))).ok()
    }

    /// Notes a key of the file that cannot be as it is.
    pub(super) fn refuse(&mut self, key: impl Display, problem: impl Display) {
        self.key::<()>(key, Err(problem));
    }

    /// Notes what is wrong with the environment.
    pub(super) fn add(&mut self, error: impl Into<Error>) {
        let Error(lines) = error.into();
        self.found.extend(lines);
    }

    /// The settings, unless anything is wrong with them.
    pub(super) fn finish<T>(self, settings: Option<T>) -> Result<T, Error> {
        settings.filter(|_| self.found.is_empty()).ok_or(Error(self.found))
    }
}
