//! Positions in logs as clients write them.

use std::{collections::HashMap, str::FromStr};

use motience_proto::model::{Cursor, Offset, ProducerId, times};
use serde::Deserialize;

use crate::StartPosition;

/// The forms of positions, for a client that wrote another.
pub const CURSORS: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message seen; or its \
                           offset (456 or \"@456\"), \"earliest\", \"live\", or a time";

/// A number from here on is a time in milliseconds: no log has come that far, and no clock was before it in this century.
const FIRST_TIME: u64 = 1_000_000_000_000;

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is `live`, `earliest`, a cursor such as 7-456, an offset such as @456, or {}", times::FORMS)]
pub struct InvalidPosition;

/// `live`, `earliest`, `EPOCH-OFFSET`, `@OFFSET`, or a time.
impl FromStr for StartPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        match text {
            "live" => Ok(Self::Live),
            "earliest" => Ok(Self::Earliest),
            text => match text.strip_prefix('@') {
                Some(offset) if offset.bytes().all(|b| b.is_ascii_digit()) => {
                    Ok(after(Offset(offset.parse().map_err(|_| InvalidPosition)?)))
                }
                Some(_) => Err(InvalidPosition),
                // A number alone is a time, like everywhere.
                None => match times::read(text) {
                    Some(time) => Ok(Self::Time(time)),
                    None => text.parse().ok().filter(|_| text.contains('-')).map(Self::After).ok_or(InvalidPosition),
                },
            },
        }
    }
}

/// After an offset of the present log epoch.
fn after(offset: Offset) -> StartPosition {
    StartPosition::After(Cursor { offset, ..Cursor::default() })
}

/// A position as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum WrittenPosition {
    /// An offset of the present log epoch; from 10^12 on, the milliseconds of a time.
    Number(u64),
    /// Any of the forms of [`StartPosition`].
    Text(String),
}

impl WrittenPosition {
    /// The position that is written here.
    pub fn read(&self) -> Result<StartPosition, InvalidPosition> {
        match self {
            Self::Number(millis) if *millis >= FIRST_TIME => times::from_millis(*millis).map(StartPosition::Time).ok_or(InvalidPosition),
            Self::Number(offset) => Ok(after(Offset(*offset))),
            Self::Text(text) => text.parse(),
        }
    }
}

/// Reads a resume: `{"123": "7-456"}`.
pub fn resume(json: &str) -> Result<HashMap<ProducerId, StartPosition>, &'static str> {
    serde_json::from_str(json).map_err(|_| CURSORS).and_then(checked)
}

/// Reads the positions of a resume.
pub fn checked(cursors: HashMap<String, WrittenPosition>) -> Result<HashMap<ProducerId, StartPosition>, &'static str> {
    let position = |(producer, position): (String, WrittenPosition)| Some((producer.parse().ok()?, position.read().ok()?));
    cursors.into_iter().map(|entry| position(entry).ok_or(CURSORS)).collect()
}

/// How cursors are confirmed, for a client that wrote something else.
pub const CONFIRMED: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message dealt with";

/// Reads the cursors of a confirmation, each with its log epoch.
pub fn confirmed(cursors: HashMap<String, WrittenPosition>) -> Result<Vec<(ProducerId, Cursor)>, &'static str> {
    let cursor = |(producer, position): (String, WrittenPosition)| match position.read().ok()? {
        StartPosition::After(cursor) if cursor.log_epoch.0 != 0 => Some((producer.parse().ok()?, cursor)),
        _ => None,
    };
    cursors.into_iter().map(|entry| cursor(entry).ok_or(CONFIRMED)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_proto::model::LogEpoch;

    #[test]
    fn positions_are_read_in_all_their_forms() {
        let read = |text: &str| resume(text).map(|positions| positions[&ProducerId(1)]);
        let after = |epoch, offset| StartPosition::After(Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) });
        assert_eq!(read(r#"{"1": 456}"#), Ok(after(0, 456)));
        assert_eq!(read(r#"{"1": "7-456"}"#), Ok(after(7, 456)));
        assert_eq!(read(r#"{"1": "earliest"}"#), Ok(StartPosition::Earliest));
        assert!(matches!(read(r#"{"1": "2025-01-29T11:35:00Z"}"#), Ok(StartPosition::Time(_))));
        assert_eq!(read(r#"{"1": "@456"}"#), Ok(after(0, 456)));
        // A number that is no offset, and texts that are times wherever a time is read.
        for time in ["1738150500000", r#""1738150500000""#, r#""2025-01-29 11:35:00""#, r#""2025-01-29T12:35:00+0100""#] {
            let time = read(&format!(r#"{{"1": {time}}}"#));
            assert_eq!(time, Ok(StartPosition::Time(times::from_millis(1_738_150_500_000).unwrap())));
        }
        for wrong in [r#"{"1": "@-5"}"#, r#"{"1": "@"}"#, r#"{"1": "soon"}"#, r#"{"x": 1}"#, r#"{"1": -1}"#, "[]"] {
            assert!(resume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_whole_cursors_are_confirmed() {
        let confirm = |position| confirmed(HashMap::from([("1".to_owned(), position)]));
        assert!(confirm(WrittenPosition::Text("7-456".to_owned())).is_ok());
        assert!(confirm(WrittenPosition::Number(5)).is_err());
        assert!(confirm(WrittenPosition::Text("earliest".to_owned())).is_err());
    }
}
