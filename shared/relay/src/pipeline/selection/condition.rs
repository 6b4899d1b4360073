//! One `where`: a pointer, a comparison, a value.
//!
//! A record in which the pointer finds nothing does not match, whatever the comparison. A value of another kind than the one
//! it is compared with is not equal to it, and neither less nor greater.

use std::cmp::Ordering;

use motience_proto::model::{record, times};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{Error, pointer::Pointer, text::Text};

/// A condition on a record.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) pointer: Pointer,
    comparison: Comparison,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The constant side of a comparison.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// Of the record itself, which writes it in several forms.
    Time(OffsetDateTime),
}

/// A JSON number. Integers are compared exactly, whatever their size.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Integer(i128),
    Float(f64),
}

/// The longer ones first.
const COMPARISONS: [(&str, Comparison); 7] = [
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("==", Comparison::Equal),
    ("=", Comparison::Equal),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl Condition {
    pub(super) fn parse(expression: &str) -> Result<Self, Error> {
        let mut text = Text::new("where", expression)?;
        text.skip_blanks();
        let pointer = Pointer::read(&mut text, &['=', '!', '<', '>'])?;
        text.skip_blanks();
        let found = COMPARISONS.into_iter().find(|(sign, _)| text.take_if(sign));
        let Some((_, comparison)) = found else {
            return Err(text.wrong("a comparison is expected here: = != < <= > >="));
        };
        text.skip_blanks();
        let begin = text.at();
        let mut value = Value::read(&mut text)?;
        if pointer == Pointer::Timestamp {
            let time = value.time().ok_or_else(|| {
                text.wrong_at(begin, "a time is expected here, such as \"2025-01-29T11:35:00Z\", or milliseconds since 1970")
            })?;
            value = Value::Time(time);
        }
        if matches!(value, Value::Null | Value::Bool(_)) && !matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            return Err(text.wrong_at(begin, "true, false and null are compared with = and != only"));
        }
        text.end()?;
        Ok(Self { pointer, comparison, value })
    }

    /// Whether it holds of the value that the pointer found.
    pub(super) fn holds(&self, found: &RawValue) -> bool {
        let order = self.value.order(found.get());
        match self.comparison {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

impl Value {
    fn read(text: &mut Text<'_>) -> Result<Self, Error> {
        let begin = text.at();
        match text.peek() {
            Some('"') => return text.string().map(Self::Text),
            Some('-' | '0'..='9') => {
                let digits = text.take_while(|c| c.is_ascii_digit() || "+-.eE".contains(c));
                // JSON's own rules say what a number is; its text is read as those of the records are.
                serde_json::from_str::<serde_json::Number>(digits).map_err(|e| text.not_json(begin, &e))?;
                return Number::of(digits).map(Self::Number).ok_or_else(|| text.wrong_at(begin, "this number cannot be read"));
            }
            _ => {}
        }
        let word = text.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        match word {
            "true" => Ok(Self::Bool(true)),
            "false" => Ok(Self::Bool(false)),
            "null" => Ok(Self::Null),
            _ => Err(text.wrong_at(begin, "a number, a text in \"quotes\", true, false or null is expected here")),
        }
    }

    fn time(&self) -> Option<OffsetDateTime> {
        match self {
            Self::Text(text) => times::read(text),
            Self::Number(Number::Integer(millis)) => times::from_millis(u64::try_from(*millis).ok()?),
            _ => None,
        }
    }

    /// How a value of the record (its JSON) stands to this one; `None` where it is of another kind.
    fn order(&self, found: &str) -> Option<Ordering> {
        match self {
            Self::Null => (found == "null").then_some(Ordering::Equal),
            Self::Bool(value) => match found {
                "true" => Some(true.cmp(value)),
                "false" => Some(false.cmp(value)),
                _ => None,
            },
            Self::Number(value) => Number::of(found)?.partial_cmp(value),
            Self::Text(value) => {
                if !found.starts_with('"') {
                    return None;
                }
                let inner = found.get(1..found.len() - 1)?;
                if inner.contains('\\') {
                    return serde_json::from_str::<String>(found).ok().map(|found| found.as_str().cmp(value));
                }
                Some(inner.cmp(value))
            }
            Self::Time(value) => record::read_time(found).ok().map(|found| found.cmp(value)),
        }
    }
}

impl Number {
    /// Of a JSON number's text; `None` for any other value.
    fn of(text: &str) -> Option<Self> {
        if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            return None;
        }
        text.parse().map(Self::Integer).or_else(|_| text.parse().map(Self::Float)).ok()
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let float = |number: &Self| match *number {
            Self::Integer(n) => n as f64,
            Self::Float(n) => n,
        };
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            (a, b) => float(a).partial_cmp(&float(b)),
        }
    }
}
