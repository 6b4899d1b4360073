//! The two forms of a stream: server-sent events and lines of JSON. Bytes only; nothing here waits.
//!
//! A record may have line ends between its tokens, where JSON allows any blank: they become blanks, or they would end a line
//! here. Within its strings JSON allows none.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::{BufMut as _, BytesMut};
use motience_proto::model::{Cursor, ProducerId};
use motience_relay::pipeline::json::{self, put_line};
use serde_json::Value;

use super::cursors::Shown;

/// Milliseconds after which an `EventSource` comes back.
const RETRY: &str = "1000";

/// Where a stream stands in each log, in order of the producers.
type Cursors = BTreeMap<ProducerId, Cursor>;

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `text/event-stream`: every record has all cursors as its `id`, which browsers send back as `Last-Event-ID`.
    Events,
    /// `application/x-ndjson`: an object a line; what is no record has a `type`.
    Lines,
}

impl Format {
    /// The format that the client prefers; `None` where it takes neither. Without a preference: events.
    pub(super) fn negotiate(headers: &HeaderMap) -> Option<Self> {
        let accepted: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
        if accepted.is_empty() {
            return Some(Self::Events);
        }
        let quality = |names: &[&str]| {
            let ranges = accepted.iter().flat_map(|list| list.split(',')).filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?.to_ascii_lowercase();
                // The more exact range counts, however it is ordered (RFC 9110, section 12.5.1).
                let exactness = names.iter().rposition(|known| *known == name)?;
                let quality = parts.find_map(|p| p.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
                Some((exactness, quality))
            });
            ranges.max_by_key(|(exactness, _)| *exactness).map_or(0.0, |(_, quality)| quality)
        };
        let events = quality(&["*/*", "text/*", "text/event-stream"]);
        let lines = quality(&["*/*", "application/*", "application/ndjson", "application/x-ndjson"]);
        if lines > events { Some(Self::Lines) } else { (events > 0.0).then_some(Self::Events) }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Events => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        })
    }

    /// The label in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => "sse",
            Self::Lines => "ndjson",
        }
    }

    /// The beginning, which says at once where the stream stands.
    pub(super) fn begin(self, cursors: &Cursors, out: &mut BytesMut) {
        if self == Self::Events {
            put(out, format_args!("retry: {RETRY}\n"));
        }
        self.beat(cursors, out);
    }

    /// A record.
    pub(super) fn record(self, message: &[u8], cursors: &Cursors, out: &mut BytesMut) {
        match self {
            Self::Events => {
                put(out, format_args!("id: {}\ndata: ", Shown(cursors)));
                put_line(message, out);
                out.put_slice(b"\n\n");
            }
            Self::Lines => {
                put_line(message, out);
                out.put_u8(b'\n');
            }
        }
    }

    /// A gap, a reset, the end. Its `type` is the event's name.
    pub(super) fn notice(self, notice: &Value, cursors: &Cursors, out: &mut BytesMut) {
        match self {
            Self::Events => {
                let name = notice["type"].as_str().unwrap_or_default();
                put(out, format_args!("event: {name}\nid: {}\ndata: {notice}\n\n", Shown(cursors)));
            }
            Self::Lines => put(out, format_args!("{notice}\n")),
        }
    }

    /// A keep-alive that moves the cursors: a block without data is no event, but its id counts.
    pub(super) fn beat(self, cursors: &Cursors, out: &mut BytesMut) {
        match self {
            Self::Events => put(out, format_args!(": \nid: {}\n\n", Shown(cursors))),
            Self::Lines => put(out, format_args!("{}\n", json::moved(cursors))),
        }
    }
}

fn put(out: &mut BytesMut, what: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Offset};
    use serde_json::json;

    use super::*;

    fn preferred(accept: &[&str]) -> Option<Format> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(header::ACCEPT, value.parse().unwrap());
        }
        Format::negotiate(&headers)
    }

    #[test]
    fn the_client_chooses() {
        for accept in
            [&[][..], &["*/*"], &["text/event-stream"], &["text/*"], &["text/html, */*;q=0.8"], &["application/x-ndjson;q=0.5, */*"]]
        {
            assert_eq!(preferred(accept), Some(Format::Events), "{accept:?}");
        }
        for accept in [&["application/x-ndjson"][..], &["Application/NDJSON"], &["text/html", "application/x-ndjson, */*;q=0.1"]] {
            assert_eq!(preferred(accept), Some(Format::Lines), "{accept:?}");
        }
        for accept in [&["application/json"][..], &["text/event-stream;q=0"], &["nonsense"]] {
            assert_eq!(preferred(accept), None, "{accept:?}");
        }
    }

    #[test]
    fn line_ends_in_a_record_do_not_end_a_line() {
        let cursors = Cursors::from([(ProducerId(1), Cursor { log_epoch: LogEpoch(7), offset: Offset(9) })]);
        let written = |write: &dyn Fn(Format, &mut BytesMut)| {
            [Format::Events, Format::Lines].map(|format| {
                let mut out = BytesMut::new();
                write(format, &mut out);
                String::from_utf8(out.to_vec()).unwrap()
            })
        };
        let record = written(&|format, out| format.record(b"{\r\n\"a\":\n\"\\n\"}", &cursors, out));
        assert_eq!(record, ["id: 1:7-9\ndata: {  \"a\": \"\\n\"}\n\n", "{  \"a\": \"\\n\"}\n"]);
        let notice = written(&|format, out| format.notice(&json!({"type": "end"}), &cursors, out));
        assert_eq!(notice, ["event: end\nid: 1:7-9\ndata: {\"type\":\"end\"}\n\n", "{\"type\":\"end\"}\n"]);
        let begin = written(&|format, out| format.begin(&cursors, out));
        assert_eq!(begin, ["retry: 1000\n: \nid: 1:7-9\n\n", "{\"cursors\":{\"1\":\"7-9\"},\"type\":\"cursors\"}\n"]);
    }
}
