//! A consumer's selection from a log, as text: compiled by `relay::pipeline`, carried by every egress.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest selection on the wire, in bytes of its JSON.
pub const MAX_SELECTION: usize = 16 * 1024;

/// `where`, `fields` and `every`, unread: their grammar is that of `relay::pipeline::selection`. Empty: everything as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Conditions that a record must meet, all of them: `/data/temperature>30`.
    #[serde(rename = "where", default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// Members of `data` that are kept: `/data/temperature,/data/humidity`.
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

/// The order in which a consumer receives the records of one producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The log's own: as records arrived.
    #[default]
    Log,
    /// As each device numbered them.
    Device,
}

/// A text that names no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("order is `log` or `device`")]
pub struct InvalidOrder;

impl FromStr for Order {
    type Err = InvalidOrder;

    fn from_str(text: &str) -> Result<Self, InvalidOrder> {
        match text {
            "log" => Ok(Self::Log),
            "device" => Ok(Self::Device),
            _ => Err(InvalidOrder),
        }
    }
}
