//! One declared setting, and which of its values are good.

use std::cmp::Ordering;

use super::Value;

/// One declared setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// The lines of its description.
    pub help: &'static [&'static str],
    /// The default, as an operator would write it; `None`: the setting may be absent.
    pub default: Option<&'static str>,
    /// The default of a production node, where that is another one.
    pub production: Option<&'static str>,
    /// A value to show where there is no default.
    pub example: Option<&'static str>,
    /// Whether the value must not be shown, and may be in a file that NAME_FILE names.
    pub secret: bool,
    /// Which values are good.
    pub check: Check,
}

/// Which values of a setting are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All that can be read.
    Any,
    /// All but nothing.
    AboveZero,
    /// From the first to the second, as an operator would write them.
    Range(&'static str, &'static str),
}

impl Check {
    /// Refuses a value that is out of bounds.
    pub(super) fn hold<V: Value>(self, value: &V) -> Result<(), String> {
        let against = |text: &str| V::parse(text).ok().and_then(|bound| value.compare(&bound));
        let good = match self {
            Self::Any => true,
            Self::AboveZero => against("0").is_some_and(Ordering::is_gt),
            Self::Range(least, most) => against(least).is_some_and(Ordering::is_ge) && against(most).is_some_and(Ordering::is_le),
        };
        match self {
            _ if good => Ok(()),
            Self::Range(least, most) => Err(format!("must be from {least} to {most}")),
            _ => Err("must be greater than zero".to_owned()),
        }
    }
}
