//! Places in logs as clients write them, and what clients are told of them.

use std::{collections::HashMap, str::FromStr};

use motience_proto::model::{Cursor, Offset, ProducerId, times};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Delivery, ReadFrom};

/// How places are written, for whoever wrote one otherwise.
pub const CURSORS: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message seen; or its \
                           offset (456 or \"@456\"), \"earliest\", \"live\", or a time";

/// A number from here on is a time in milliseconds: no log has come that far, and no clock was before it in this century.
const FIRST_TIME: u64 = 1_000_000_000_000;

/// A text that is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a place is `live`, `earliest`, a cursor such as 7-456, an offset such as @456, or {}", times::FORMS)]
pub struct InvalidPlace;

/// `live`, `earliest`, `LIFE-OFFSET`, `@OFFSET`, or a time.
impl FromStr for ReadFrom {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        match text {
            "live" => Ok(Self::Live),
            "earliest" => Ok(Self::Earliest),
            text => match text.strip_prefix('@') {
                Some(offset) if offset.bytes().all(|b| b.is_ascii_digit()) => Ok(after(Offset(offset.parse().map_err(|_| InvalidPlace)?))),
                Some(_) => Err(InvalidPlace),
                // A number alone is a time, like everywhere.
                None => match times::read(text) {
                    Some(time) => Ok(Self::Time(time)),
                    None => text.parse().ok().filter(|_| text.contains('-')).map(Self::After).ok_or(InvalidPlace),
                },
            },
        }
    }
}

/// After an offset of the log's present life.
fn after(offset: Offset) -> ReadFrom {
    ReadFrom::After(Cursor { offset, ..Cursor::default() })
}

/// A place in a log, as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Place {
    /// An offset of the log's present life; of a number too large for one, the milliseconds of a time.
    Number(u64),
    /// Any of the forms of [`ReadFrom`].
    Text(String),
}

impl Place {
    /// The place, if it is one.
    pub fn read(&self) -> Result<ReadFrom, InvalidPlace> {
        match self {
            Self::Number(millis) if *millis >= FIRST_TIME => times::from_millis(*millis).map(ReadFrom::Time).ok_or(InvalidPlace),
            Self::Number(offset) => Ok(after(Offset(*offset))),
            Self::Text(text) => text.parse(),
        }
    }
}

/// Reads a resume: `{"123": "7-456"}`.
pub fn resume(json: &str) -> Result<HashMap<ProducerId, ReadFrom>, &'static str> {
    serde_json::from_str(json).map_err(|_| CURSORS).and_then(checked)
}

/// The same of JSON that was read already.
pub fn checked(cursors: HashMap<String, Place>) -> Result<HashMap<ProducerId, ReadFrom>, &'static str> {
    let place = |(producer, place): (String, Place)| Some((producer.parse().ok()?, place.read().ok()?));
    cursors.into_iter().map(|entry| place(entry).ok_or(CURSORS)).collect()
}

impl Delivery {
    /// What a consumer is told where this is no batch: the same object on every way out.
    pub fn notice(&self) -> Option<Value> {
        match self {
            Self::Gap { producer, from, to, cause } => Some(json!({
                "type": "gap", "producer_id": producer.to_string(), "from": from, "to": to, "cause": cause.as_str(),
            })),
            Self::Reset { producer, cursor } => Some(json!({
                "type": "reset", "producer_id": producer.to_string(), "cursor": cursor.to_string(),
                "epoch": cursor.log_epoch.to_string(), "after": cursor.offset,
            })),
            Self::Batch { .. } => None,
        }
    }
}

/// Word of cursors that moved without a record: `{"type":"cursors","cursors":{"123":"7-456"}}`.
pub fn moved<'c>(cursors: impl IntoIterator<Item = (&'c ProducerId, &'c Cursor)>) -> Value {
    let cursors: serde_json::Map<String, Value> =
        cursors.into_iter().map(|(producer, cursor)| (producer.to_string(), cursor.to_string().into())).collect();
    json!({"type": "cursors", "cursors": cursors})
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_proto::model::LogEpoch;

    use crate::GapCause;

    #[test]
    fn places_are_read_in_all_their_forms() {
        let read = |text: &str| resume(text).map(|places| places[&ProducerId(1)]);
        let after = |epoch, offset| ReadFrom::After(Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) });
        assert_eq!(read(r#"{"1": 456}"#), Ok(after(0, 456)));
        assert_eq!(read(r#"{"1": "7-456"}"#), Ok(after(7, 456)));
        assert_eq!(read(r#"{"1": "earliest"}"#), Ok(ReadFrom::Earliest));
        assert!(matches!(read(r#"{"1": "2025-01-29T11:35:00Z"}"#), Ok(ReadFrom::Time(_))));
        assert_eq!(read(r#"{"1": "@456"}"#), Ok(after(0, 456)));
        // A number that is no offset, and texts that are times wherever a time is read.
        for time in ["1738150500000", r#""1738150500000""#, r#""2025-01-29 11:35:00""#, r#""2025-01-29T12:35:00+0100""#] {
            let time = read(&format!(r#"{{"1": {time}}}"#));
            assert_eq!(time, Ok(ReadFrom::Time(times::from_millis(1_738_150_500_000).unwrap())));
        }
        for wrong in [r#"{"1": "@-5"}"#, r#"{"1": "@"}"#, r#"{"1": "soon"}"#, r#"{"x": 1}"#, r#"{"1": -1}"#, "[]"] {
            assert!(resume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_told_names_its_producer() {
        let gap = |cause| Delivery::Gap { producer: ProducerId(1), from: Offset(2), to: Offset(3), cause }.notice();
        for (cause, word) in [(GapCause::Retention, "retention"), (GapCause::Damaged, "damaged")] {
            assert_eq!(gap(cause), Some(json!({"type": "gap", "producer_id": "1", "from": 2, "to": 3, "cause": word})));
        }
        let cursor = Cursor { log_epoch: LogEpoch(7), offset: Offset(9) };
        assert_eq!(moved([(&ProducerId(1), &cursor)]), json!({"type": "cursors", "cursors": {"1": "7-9"}}));
    }
}
