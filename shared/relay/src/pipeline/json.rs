//! JSON of everything that leaves a pipeline, in one form for all egresses that speak JSON.

use bytes::{BufMut as _, BytesMut};
use motience_proto::model::{Cursor, ProducerId, Status, record};
use serde_json::{Value, json};

use super::DeliveredRecord;
use crate::Notice;

impl DeliveredRecord {
    /// Appends the message with `offset`, `cursor` and `record_id`, and with `received_at` where it is asked for.
    pub fn put_json(&self, received_at: bool, out: &mut BytesMut) {
        let received = self.received.filter(|_| received_at);
        record::with_place(&self.message, self.offset, self.cursor, self.record_id, received, out);
    }
}

impl Notice {
    /// `{"type":"gap",…}` or `{"type":"reset",…}`
    pub fn json(&self) -> Value {
        match self {
            Self::Gap { producer, from, to, cause } => json!({
                "type": "gap", "producer_id": producer.to_string(), "from": from, "to": to, "cause": cause.as_str(),
            }),
            Self::Reset { producer, cursor } => json!({
                "type": "reset", "producer_id": producer.to_string(), "cursor": cursor.to_string(),
                "epoch": cursor.log_epoch.to_string(), "after": cursor.offset,
            }),
        }
    }
}

/// `{"type":"cursors","cursors":{"123":"7-456"}}`: cursors that moved without a record.
pub fn moved<'c>(cursors: impl IntoIterator<Item = (&'c ProducerId, &'c Cursor)>) -> Value {
    let cursors: serde_json::Map<String, Value> =
        cursors.into_iter().map(|(producer, cursor)| (producer.to_string(), cursor.to_string().into())).collect();
    json!({"type": "cursors", "cursors": cursors})
}

/// `{"type":"subscription","producer_id":"123","status":"revoked"}`: somebody else has changed a subscription of the reader.
pub fn subscription(producer: ProducerId, status: Status) -> Value {
    json!({"type": "subscription", "producer_id": producer.to_string(), "status": status})
}

/// `{"type":"error","code":"too_many_connections",…}`: a grant has no room for this connection.
pub fn crowded(producer: ProducerId) -> Value {
    json!({
        "type": "error", "code": "too_many_connections", "producer_id": producer.to_string(),
        "message": "as many connections receive this producer's records as its grant allows",
    })
}

/// Appends JSON as one line, without the line's end. Between its tokens JSON allows any blank, and blanks that would end a line
/// become spaces; within strings it allows none of them.
pub fn put_line(json: &[u8], out: &mut BytesMut) {
    let begin = out.len();
    out.put_slice(json);
    for byte in &mut out[begin..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_proto::model::{GapCause, LogEpoch, Offset};

    #[test]
    fn notices_name_their_producer() {
        let gap = |cause| Notice::Gap { producer: ProducerId(1), from: Offset(2), to: Offset(3), cause }.json();
        for cause in GapCause::ALL {
            assert_eq!(gap(cause), json!({"type": "gap", "producer_id": "1", "from": 2, "to": 3, "cause": cause.as_str()}));
        }
        let cursor = Cursor { log_epoch: LogEpoch(7), offset: Offset(9) };
        assert_eq!(moved([(&ProducerId(1), &cursor)]), json!({"type": "cursors", "cursors": {"1": "7-9"}}));
    }
}
