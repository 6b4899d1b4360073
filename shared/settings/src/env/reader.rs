//! Reading settings: each group of them once, and every mistake noted.

use std::{
    any::{Any, TypeId},
    collections::{BTreeSet, HashMap},
    fmt,
};

use super::{Env, Environment, Error, Mode, Setting, Value};

/// A struct of settings that [`settings!`](super::settings) has declared.
pub trait Group: Clone + 'static {
    /// Declared settings.
    const SETTINGS: &'static [Setting];

    /// Reads the variables. [`Reader::group`] reads those of each group once.
    fn read(reader: &mut Reader<'_>) -> Self;

    /// The declaration of this variable.
    fn setting(name: &str) -> &'static Setting {
        Self::SETTINGS.iter().find(|setting| setting.name == name).expect("every field was declared with its setting")
    }
}

/// Makes settings of variables. Notes a wrong one and leaves it at its default, so that one mistake hides no other.
pub struct Reader<'e> {
    env: &'e Env,
    production: bool,
    groups: HashMap<TypeId, Box<dyn Any>>,
    seen: BTreeSet<&'static str>,
    errors: Vec<Error>,
}

impl<'e> Reader<'e> {
    /// Reads these variables. A node whose environment nobody knows counts as one of production.
    pub fn new(env: &'e Env) -> Self {
        let mut reader = Self { env, production: false, groups: HashMap::new(), seen: BTreeSet::new(), errors: Vec::new() };
        let mode: Mode = reader.group();
        let named = mode.motience_env.unwrap_or(mode.node_env);
        reader.production = named == Environment::Production || !reader.errors.is_empty();
        reader
    }

    /// Whether this is a production node.
    pub fn production(&self) -> bool {
        self.production
    }

    /// The variables.
    pub fn env(&self) -> &'e Env {
        self.env
    }

    /// The variables that were looked for so far.
    pub fn seen(&self) -> &BTreeSet<&'static str> {
        &self.seen
    }

    /// A group of settings. Its variables are read once, however many parts ask for it.
    pub fn group<G: Group>(&mut self) -> G {
        if let Some(known) = self.groups.get(&TypeId::of::<G>()).and_then(|group| group.downcast_ref::<G>()) {
            return known.clone();
        }
        let group = G::read(self);
        self.groups.insert(TypeId::of::<G>(), Box::new(group.clone()));
        group
    }

    /// One setting, which for a secret may be in a file.
    pub fn value<V: Value>(&mut self, setting: &Setting) -> V {
        self.seen.insert(setting.name);
        let default = setting.production.filter(|_| self.production).or(setting.default);
        let text = if V::SECRET { self.env.secret(setting.name) } else { Ok(self.env.get(setting.name).map(str::to_owned)) };
        let read = |text: &str| V::parse(text).and_then(|value| setting.check.hold(&value).map(|()| value));
        let value = match text {
            Ok(None) => None,
            Ok(Some(text)) => {
                let quoted = if V::SECRET { String::new() } else { format!("'{text}' ") };
                read(&text).map_err(|problem| self.wrong(setting.name, format_args!("{quoted}{problem}"))).ok()
            }
            Err(error) => {
                self.errors.push(error);
                None
            }
        };
        value.unwrap_or_else(|| match default {
            Some(text) => read(text).expect("a test reads every default"),
            None => V::ABSENT.expect("every setting without a default may be absent")(),
        })
    }

    /// Notes what is wrong with a setting. More than one mistake is seldom made in one, so only the first counts.
    pub fn wrong(&mut self, variable: &str, problem: impl fmt::Display) {
        let known = |error: &Error| matches!(error, Error::Invalid { variable: known, .. } if known == variable);
        if !self.errors.iter().any(known) {
            self.errors.push(Error::invalid(variable, problem));
        }
    }

    /// Everything that is wrong.
    pub fn finish(self) -> Vec<Error> {
        self.errors
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::{ExposeSecret as _, SecretString};

    use super::*;
    use crate::env::{Check, settings};

    settings! {
        /// Settings of nothing.
        #[derive(Clone, Debug)]
        struct Sample {
            /// How many.
            /// Two lines.
            COUNT = "7", production "12" => count: u16, "1"..="100";
            /// How long.
            LIMIT = "30s" => limit: Duration, > 0;
            /// How much.
            BYTES = "64KiB" => bytes: u32 as Size, "4KiB"..="16MiB";
            /// Where.
            PLACE, example "there" => place: Option<String>;
            /// A secret.
            KEY => key: Option<SecretString>, "a"..="b";
        }
        with {
            /// The environment.
            mode: Mode,
        }
    }

    fn read(pairs: &[(&str, &str)]) -> Result<Sample, String> {
        Sample::from_env(&Env::from_pairs(pairs.iter().copied())).map_err(|e| e.to_string())
    }

    #[test]
    fn a_declaration_gives_default_parser_and_description() {
        let Sample { count, limit, bytes, place, key, mode } = Sample::default();
        assert_eq!((count, limit, bytes, place), (7, Duration::from_secs(30), 65536, None));
        assert!(key.is_none() && mode.motience_env.is_none());
        let given = read(&[("COUNT", "8"), ("LIMIT", "5m"), ("BYTES", "1MiB"), ("PLACE", "here")]).unwrap();
        assert_eq!((given.count, given.limit, given.bytes, given.place.as_deref()), (8, Duration::from_secs(300), 1 << 20, Some("here")));
        assert_eq!(read(&[("NODE_ENV", "prod")]).unwrap().count, 12);
        let [count, .., key] = Sample::SETTINGS else { panic!("five were declared") };
        assert_eq!((count.name, count.default, count.help), ("COUNT", Some("7"), &[" How many.", " Two lines."][..]));
        assert!(key.secret && key.check == Check::Range("a", "b"));
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_the_value() {
        let told = read(&[("COUNT", "0"), ("LIMIT", "0s"), ("BYTES", "5GiB"), ("MOTIENCE_ENV", "produktion")]).unwrap_err();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("MOTIENCE_ENV: 'produktion' must be development"), "{told}");
        assert_eq!(
            lines[1..],
            ["COUNT: '0' must be from 1 to 100", "LIMIT: '0s' must be greater than zero", "BYTES: '5GiB' must be less than 4GiB"]
        );
    }

    #[test]
    fn an_error_shows_no_secret_and_a_group_is_read_once() {
        assert_eq!(read(&[("KEY", "hunter2")]).unwrap_err(), "KEY: must be from a to b");
        let env = Env::from_pairs([("COUNT", "x"), ("KEY_FILE", "/nowhere")]);
        let mut reader = Reader::new(&env);
        let (first, second): (Sample, Sample) = (reader.group(), reader.group());
        assert_eq!((first.count, second.count, first.key.map(|k| k.expose_secret().len())), (7, 7, None));
        let told = reader.finish();
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn an_environment_that_nobody_knows_is_not_development() {
        let production = |pairs: &[(&str, &str)]| Reader::new(&Env::from_pairs(pairs.iter().copied())).production();
        for name in ["production", "PRODUCTION", "Production", " prod ", "live", "staging", "produktion", "prd", "true", "1"] {
            assert!(production(&[("NODE_ENV", name)]), "{name}");
        }
        for name in ["development", "Dev", "test", ""] {
            assert!(!production(&[("NODE_ENV", name)]), "{name}");
        }
        assert!(production(&[("MOTIENCE_ENV", "prod"), ("NODE_ENV", "development")]));
        assert!(read(&[("MOTIENCE_ENV", "prod"), ("NODE_ENV", "devel")]).unwrap_err().starts_with("NODE_ENV: 'devel' must be"));
    }
}
