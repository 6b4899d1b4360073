//! What a consumer wants of a feed, in its own words: read by `relay::view`, carried by every way out.

use serde::{Deserialize, Serialize};

/// Longest selection on the wire, in bytes of its JSON.
pub const MAX_SELECTION: usize = 16 * 1024;

/// `where`, `fields` and `every`, unread: their grammar is that of `relay::view`. Empty: everything as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// What must hold of a record, all of it: `/data/temperature>30`.
    #[serde(rename = "where", default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// What its data keep: `/data/temperature,/data/humidity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    /// The last value of each device in each such time: `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
}

impl Selection {
    /// Whether it asks for nothing but everything.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.fields.is_none() && self.every.is_none()
    }

    /// Takes a member of a query (`where`, `fields`, `every`); hands back any other. `where` may come again, of the others the
    /// last counts.
    pub fn take(&mut self, name: &str, value: String) -> Option<String> {
        match name {
            "where" => self.conditions.push(value),
            "fields" => self.fields = Some(value),
            "every" => self.every = Some(value),
            _ => return Some(value),
        }
        None
    }
}
