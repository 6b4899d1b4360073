//! Where a stream stands in every log it follows, as one text: `1:7-456,2:7-9`, the `id:` of server-sent events.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use motience_proto::model::{Cursor, ProducerId};
use motience_relay::pipeline::{Start, position};

/// The cursors of one stream as text.
pub(super) struct Shown<'c>(pub(super) &'c BTreeMap<ProducerId, Cursor>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (producer, cursor)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{producer}:{cursor}")?;
        }
        Ok(())
    }
}

/// Reads `live`, `earliest`, a time, a cursor, [`Shown`] cursors, or the JSON of a resume. A stream that names producers begins live
/// in all others.
pub(super) fn read(text: &str) -> Option<Start> {
    let each = |each: HashMap<_, _>| Start { each, ..Start::default() };
    if text.starts_with('{') {
        return position::resume(text).ok().map(each);
    }
    if let Ok(everywhere) = text.parse() {
        return Some(Start { everywhere, ..Start::default() });
    }
    let part = |part: &str| {
        let (producer, cursor) = part.split_once(':')?;
        Some((producer.trim().parse().ok()?, cursor.trim().parse().ok()?))
    };
    text.split(',').map(part).collect::<Option<_>>().map(each)
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Offset};
    use motience_relay::StartPosition;

    use super::*;

    fn at(epoch: u64, offset: u64) -> Cursor {
        Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
    }

    #[test]
    fn what_is_written_is_read() {
        let cursors = BTreeMap::from([(ProducerId(2), at(7, 9)), (ProducerId(1), at(7, 456))]);
        assert_eq!(Shown(&cursors).to_string(), "1:7-456,2:7-9");
        let each = cursors.iter().map(|(&producer, &cursor)| (producer, StartPosition::After(cursor))).collect();
        assert_eq!(read(&Shown(&cursors).to_string()), Some(Start { each, ..Start::default() }));
    }

    #[test]
    fn every_form_of_a_beginning_is_read() {
        let one = |position| Some(Start { each: [(ProducerId(1), position)].into(), ..Start::default() });
        let all = |everywhere| Some(Start { everywhere, ..Start::default() });
        assert_eq!(read("live"), all(StartPosition::Live));
        assert_eq!(read("earliest"), all(StartPosition::Earliest));
        assert_eq!(read("7-456"), all(StartPosition::After(at(7, 456))));
        assert_eq!(read("@456"), all(StartPosition::After(at(0, 456))));
        assert_eq!(read("1:@456"), one(StartPosition::After(at(0, 456))));
        assert_eq!(read(r#"{"1":"earliest"}"#), one(StartPosition::Earliest));
        assert_eq!(read("1:7-456"), one(StartPosition::After(at(7, 456))));
        for time in ["2025-01-29T11:35:00Z", "2025-01-29T11:35:00 01:00", "2025-01-29 11:35:00", "1738150500000", "456"] {
            assert!(matches!(read(time), Some(Start { everywhere: StartPosition::Time(_), .. })), "{time}");
        }
        for bad in ["", "soon", "1:", "1:x", "a:7-1", "1:7-1,,", "{}x", "-5"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
