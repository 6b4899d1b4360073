//! Kinds of values, each with the way it is written.

use std::{cmp::Ordering, num::IntErrorKind, path::PathBuf, time::Duration};

use secrecy::SecretString;

/// A value that can be written as a setting.
pub trait Value: Sized {
    /// Whether it must not be shown, and may be in a file.
    const SECRET: bool = false;
    /// Makes the value of a setting that is absent and has no default, where there may be such.
    const ABSENT: Option<fn() -> Self> = None;

    /// Reads the text. The error says what it must be, and goes on behind `NAME: 'text' `.
    fn parse(text: &str) -> Result<Self, String>;

    /// Compares two values, where one can be more than another.
    fn compare(&self, _other: &Self) -> Option<Ordering> {
        None
    }
}

/// A number of bytes: `4096`, `64KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size<N>(pub N);

/// The choice of this name; case does not matter.
pub fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, choice)| *choice);
    found.ok_or_else(|| format!("must be {}", choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ")))
}

macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl Value for $number {
            fn parse(text: &str) -> Result<Self, String> {
                text.parse().map_err(|e: std::num::ParseIntError| match e.kind() {
                    IntErrorKind::PosOverflow => format!("must be at most {}", Self::MAX),
                    _ => "must be a whole number".to_owned(),
                })
            }

            fn compare(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
    )+};
}

numbers!(u8, u16, u32, u64, usize);

impl Value for f64 {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be a number".to_owned())
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        self.partial_cmp(other)
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }
}

impl Value for Duration {
    /// A bare number counts seconds.
    fn parse(text: &str) -> Result<Self, String> {
        let units = [("", 1000), ("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let millis = multiply(text, &units);
        millis.map(Self::from_millis).ok_or_else(|| "must be a duration such as 500ms, 30s, 15m, 1h or 7d".to_owned())
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: TryFrom<u64> + Ord> Value for Size<N> {
    fn parse(text: &str) -> Result<Self, String> {
        let units =
            [("", 1), ("b", 1), ("kib", 1 << 10), ("k", 1 << 10), ("mib", 1 << 20), ("m", 1 << 20), ("gib", 1 << 30), ("g", 1 << 30)];
        let bytes = multiply(&text.to_ascii_lowercase(), &units);
        let bytes = bytes.ok_or_else(|| "must be a size such as 4096, 64KiB or 16MiB".to_owned())?;
        // The only number of ours that may be too small has 32 bits.
        N::try_from(bytes).map(Self).map_err(|_| "must be less than 4GiB".to_owned())
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Value for SecretString {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl<T: Value> Value for Vec<T> {
    /// Separated by commas.
    fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::parse).collect()
    }
}

impl<T: Value> Value for Option<T> {
    const SECRET: bool = T::SECRET;
    const ABSENT: Option<fn() -> Self> = Some(|| None);

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn compare(&self, other: &Self) -> Option<Ordering> {
        self.as_ref()?.compare(other.as_ref()?)
    }
}

/// The number that the text begins with, as many times as its unit says.
fn multiply(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, each) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_units() {
        for (text, millis) in [("500ms", 500), ("7", 7000), ("30 s", 30_000), ("15m", 900_000), ("1h", 3_600_000), ("7d", 604_800_000)] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, bytes) in [("4096", 4096), ("64KiB", 65_536), ("64k", 65_536), ("16 MiB", 16 << 20), ("4GiB", 4 << 30)] {
            assert_eq!(Size::<u64>::parse(text), Ok(Size(bytes)), "{text}");
        }
        assert_eq!(Vec::<String>::parse("a, b,,c"), Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert_eq!((bool::parse("Yes"), bool::parse("0")), (Ok(true), Ok(false)));
        assert_eq!(one_of("MEMORY", &[("file", 1), ("memory", 2)]), Ok(2));
    }

    #[test]
    fn what_a_text_must_be_is_told_in_plain_words() {
        for (outcome, problem) in [
            (u16::parse("99999").err(), "must be at most 65535"),
            (u16::parse("ten").err(), "must be a whole number"),
            (u16::parse("-1").err(), "must be a whole number"),
            (f64::parse("x").map(|_| 0).err(), "must be a number"),
            (bool::parse("maybe").err(), "must be true or false"),
            (Duration::parse("5 weeks").err(), "must be a duration such as 500ms, 30s, 15m, 1h or 7d"),
            (Duration::parse("99999999999999999d").err(), "must be a duration such as 500ms, 30s, 15m, 1h or 7d"),
            (Size::<usize>::parse("much").err(), "must be a size such as 4096, 64KiB or 16MiB"),
            (Size::<u32>::parse("4GiB").err(), "must be less than 4GiB"),
            (one_of("paper", &[("file", 1), ("memory", 2)]).err(), "must be file or memory"),
        ] {
            assert_eq!(outcome.as_deref(), Some(problem));
        }
    }
}
