//! Where a stream stands in every log it follows, as one text: `1:7-456,2:7-9`, the `id:` of server-sent events.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use motience_proto::model::{Cursor, ProducerId};
use motience_relay::{ReadFrom, places};

/// The cursors of one stream, in order of the producers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursors(pub(super) BTreeMap<ProducerId, Cursor>);

impl fmt::Display for Cursors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (producer, cursor)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{producer}:{cursor}")?;
        }
        Ok(())
    }
}

/// Where a stream begins, as a client says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// In every log.
    Everywhere(ReadFrom),
    /// In these, and live in all others.
    Each(HashMap<ProducerId, ReadFrom>),
}

/// Reads `live`, `earliest`, a time, a cursor, [`Cursors`] as they are displayed, or the JSON of a resume.
pub(super) fn read(text: &str) -> Option<From> {
    if text.starts_with('{') {
        return places::resume(text).ok().map(From::Each);
    }
    if let Ok(place) = text.parse() {
        return Some(From::Everywhere(place));
    }
    let each = |part: &str| {
        let (producer, cursor) = part.split_once(':')?;
        Some((producer.trim().parse().ok()?, cursor.trim().parse().ok()?))
    };
    text.split(',').map(each).collect::<Option<_>>().map(From::Each)
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Offset};

    use super::*;

    fn at(epoch: u64, offset: u64) -> Cursor {
        Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
    }

    #[test]
    fn what_is_written_is_read() {
        let cursors = Cursors([(ProducerId(2), at(7, 9)), (ProducerId(1), at(7, 456))].into());
        assert_eq!(cursors.to_string(), "1:7-456,2:7-9");
        let places = cursors.0.iter().map(|(&producer, &cursor)| (producer, ReadFrom::After(cursor))).collect();
        assert_eq!(read(&cursors.to_string()), Some(From::Each(places)));
    }

    #[test]
    fn every_form_of_a_beginning_is_read() {
        let one = |place| Some(From::Each([(ProducerId(1), place)].into()));
        assert_eq!(read("live"), Some(From::Everywhere(ReadFrom::Live)));
        assert_eq!(read("earliest"), Some(From::Everywhere(ReadFrom::Earliest)));
        assert_eq!(read("7-456"), Some(From::Everywhere(ReadFrom::After(at(7, 456)))));
        assert_eq!(read("@456"), Some(From::Everywhere(ReadFrom::After(at(0, 456)))));
        assert_eq!(read("1:@456"), one(ReadFrom::After(at(0, 456))));
        assert_eq!(read(r#"{"1":"earliest"}"#), one(ReadFrom::Earliest));
        assert_eq!(read("1:7-456"), one(ReadFrom::After(at(7, 456))));
        for time in ["2025-01-29T11:35:00Z", "2025-01-29T11:35:00 01:00", "2025-01-29 11:35:00", "1738150500000", "456"] {
            assert!(matches!(read(time), Some(From::Everywhere(ReadFrom::Time(_)))), "{time}");
        }
        for bad in ["", "soon", "1:", "1:x", "a:7-1", "1:7-1,,", "{}x", "-5"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
