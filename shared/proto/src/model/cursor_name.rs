//! The name under which a consumer has the server remember how far it has read.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name, in characters.
pub const MAX_CURSOR_NAME: usize = 64;

/// A name of 1 to 64 letters, digits, dots, hyphens and underscores: it stands in addresses as it is. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorName(Arc<str>);

/// Why a string is no name of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor's name is 1 to {MAX_CURSOR_NAME} letters, digits, dots, hyphens and underscores")]
pub struct InvalidCursorName;

impl CursorName {
    /// Checks length and characters.
    pub fn new(name: &str) -> Result<Self, InvalidCursorName> {
        let fits = (1..=MAX_CURSOR_NAME).contains(&name.len());
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if fits && name.bytes().all(plain) { Ok(Self(name.into())) } else { Err(InvalidCursorName) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CursorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CursorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for CursorName {
    type Err = InvalidCursorName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl Serialize for CursorName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CursorName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "app-1.main_2", &"x".repeat(64)] {
            assert_eq!(CursorName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "a:b", "é", "a\0", &"x".repeat(65)] {
            assert_eq!(CursorName::new(bad), Err(InvalidCursorName), "{bad:?}");
        }
    }
}
