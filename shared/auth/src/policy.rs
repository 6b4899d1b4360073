//! Which passwords are taken.

use super::{
    Config,
    names::{MAX_PASSWORD, canonical_password},
};

/// Well-known passwords, compiled for this project from sequences, keyboard walks and words that appear in every such list. All in
/// lower case; digits and marks at the end are not written, because they are taken off before comparing.
const COMMON: &str = include_str!("common_passwords.txt");

/// Why a password is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weak {
    /// Fewer characters than the least, which is given.
    #[error("the password must have at least {0} characters")]
    TooShort(usize),
    /// More than [`MAX_PASSWORD`] characters.
    #[error("the password must have at most {MAX_PASSWORD} characters")]
    TooLong,
    /// The password cannot be typed again for certain.
    #[error("the password must not have control characters, or characters that nobody sees")]
    Characters,
    /// Among the first that anybody would try.
    #[error("the password is too common")]
    Common,
}

/// Whether a new password is taken.
pub fn check_password(config: &Config, password: &str) -> Result<(), Weak> {
    if password.chars().count() > MAX_PASSWORD {
        return Err(Weak::TooLong);
    }
    let password = match canonical_password(password) {
        Ok(canonical) => canonical,
        Err(_) if password.is_empty() => String::new(),
        Err(_) => return Err(Weak::Characters),
    };
    let characters = password.chars().count();
    if characters > MAX_PASSWORD {
        return Err(Weak::TooLong);
    }
    if characters < config.password_min_length {
        return Err(Weak::TooShort(config.password_min_length));
    }
    if config.refuse_common && is_common(&password) { Err(Weak::Common) } else { Ok(()) }
}

fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    let word = lower.trim_matches(|c: char| !c.is_alphabetic());
    let listed = |text: &str| COMMON.lines().any(|line| !line.starts_with('#') && line == text);
    listed(&lower) || (!word.is_empty() && (listed(word) || is_repeated(word))) || is_repeated(&lower) || is_sequence(&lower)
}

/// One part of at most half the length, over and over: `aaaaaaaaaaaa`, `abcabcabcabc`, `passwordpassword`.
fn is_repeated(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let part = |len: usize| chars.chunks(len).all(|chunk| chars.starts_with(chunk));
    chars.len() >= 6 && (1..=chars.len() / 2).any(part)
}

/// Each character next to the one before: `123456789012`, `abcdefghijkl`, `987654321098`.
fn is_sequence(text: &str) -> bool {
    let step = |a: u8, b: u8| match (a, b) {
        (b'9', b'0') => 1,
        (b'0', b'9') => -1,
        (a, b) => i16::from(b) - i16::from(a),
    };
    let steps: Vec<i16> = text.as_bytes().windows(2).map(|pair| step(pair[0], pair[1])).collect();
    !steps.is_empty() && (steps.iter().all(|s| *s == 1) || steps.iter().all(|s| *s == -1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_settings::env::Env;

    fn production() -> Config {
        Config::from_env(&Env::from_pairs([("JWT_SECRET", "x".repeat(32)), ("MOTIENCE_ENV", "production".to_owned())])).unwrap()
    }

    #[test]
    fn development_takes_the_documented_password() {
        let config = Config::from_env(&Env::default()).unwrap();
        assert_eq!(check_password(&config, "pass123"), Ok(()));
        assert_eq!(check_password(&config, "pass1"), Err(Weak::TooShort(6)));
        assert_eq!(check_password(&config, &"é".repeat(129)), Err(Weak::TooLong));
        assert_eq!(check_password(&config, "ééé"), Err(Weak::TooShort(6)));
    }

    #[test]
    fn production_refuses_what_anybody_would_try() {
        let config = production();
        assert_eq!(check_password(&config, "pass123"), Err(Weak::TooShort(12)));
        for common in [
            "123456789012",
            "0987654321098",
            "Password1234!",
            "passwordpassword",
            "PASSWORDpassword1",
            "aaaaaaaaaaaa",
            "abcdefghijklmn",
            "qwertyuiop123",
            "1q2w3e4r5t6y7u8i",
            "iloveyou2024!",
            "administrator",
        ] {
            assert_eq!(check_password(&config, common), Err(Weak::Common), "{common}");
        }
        for good in ["correct horse battery staple", "tr0mbone-lagoon", "Kx9#vQ2!mZ7pL", "пароль-из-снега"] {
            assert_eq!(check_password(&config, good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_list_is_clean() {
        let lines: Vec<&str> = COMMON.lines().filter(|l| !l.starts_with('#')).collect();
        assert!(lines.len() >= 200, "{}", lines.len());
        for line in &lines {
            assert!(line.len() >= 6 && *line == line.trim() && *line == line.to_lowercase(), "'{line}'");
        }
        let unique: std::collections::BTreeSet<_> = lines.iter().collect();
        assert_eq!(unique.len(), lines.len());
    }
}
