//! A consumer's request: its text, which every egress reads in its own way, and its meaning.

use motience_proto::model::{CursorName, InvalidCursorName, InvalidOrder, Order, Selection};
use serde::Deserialize;

use super::selection::{self, Selector};

/// `where`, `fields`, `every`, `order` and `durable`, unread: members of a query, or of a JSON object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// `where`, `fields` and `every`.
    #[serde(flatten)]
    pub selection: Selection,
    /// `log` or `device`.
    pub order: Option<String>,
    /// The name of a cursor.
    pub durable: Option<String>,
}

/// Options of a pipeline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The order within one producer.
    pub order: Order,
    /// Filter, projection and sampling.
    pub selector: Selector,
    /// The named cursor that the reader goes on from, and confirms.
    pub cursor: Option<CursorName>,
}

/// A request with a mistake.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvalidRequest {
    /// `where`, `fields` or `every`.
    #[error(transparent)]
    Selection(#[from] selection::Error),
    /// `order`
    #[error(transparent)]
    Order(#[from] InvalidOrder),
    /// `durable`
    #[error(transparent)]
    CursorName(#[from] InvalidCursorName),
}

impl InvalidRequest {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Selection(_) => selection::Error::CODE,
            Self::Order(_) => "invalid_order",
            Self::CursorName(_) => "invalid_cursor_name",
        }
    }

    /// The member that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Selection(e) => e.parameter,
            Self::Order(_) => "order",
            Self::CursorName(_) => "durable",
        }
    }
}

impl Request {
    /// Takes a member of a query, or hands back one that is another's. `where` may come again, of the others the last counts.
    pub fn take(&mut self, name: &str, value: String) -> Option<String> {
        match name {
            "order" => self.order = Some(value),
            "durable" => self.durable = Some(value),
            _ => return self.selection.take(name, value),
        }
        None
    }

    /// Reads all of it.
    pub fn read(&self) -> Result<Options, InvalidRequest> {
        Ok(Options {
            order: self.order.as_deref().map(str::parse).transpose()?.unwrap_or_default(),
            selector: Selector::of(&self.selection)?,
            cursor: self.durable.as_deref().map(CursorName::new).transpose()?,
        })
    }
}
