//! Times as devices, programs and people write them, read in one way: in records, in queries, in cursors and in expressions.
//!
//! RFC 3339; ISO 8601 without an offset, which counts as UTC; either with a blank for the `T`, or with an offset that lacks its colon or
//! its minutes; and milliseconds since 1970, in digits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::{datetime, format_description},
};

/// How times are written, for whoever wrote one otherwise.
pub const FORMS: &str = "an RFC 3339 time such as 2025-01-29T11:35:00Z, or milliseconds since 1970";

/// ISO 8601 without an offset, as Python's `isoformat()` writes it.
const LOCAL: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute][optional [:[second][optional [.[subsecond]]]]]");

/// No device that sends records wrote them before this: its clock was never set, or it counts seconds where milliseconds are read.
const FIRST_DEVICES: OffsetDateTime = datetime!(1980-01-01 00:00 UTC);

/// The time that a text says.
pub fn read(text: &str) -> Option<OffsetDateTime> {
    if text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(|b| b.is_ascii_digit()) {
        return from_millis(text.parse().ok()?);
    }
    exact(text).or_else(|| exact(&usual(text)?))
}

/// Milliseconds since 1970, as far as times go.
pub fn from_millis(millis: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()
}

fn exact(text: &str) -> Option<OffsetDateTime> {
    let local = || PrimitiveDateTime::parse(text, LOCAL).map(PrimitiveDateTime::assume_utc);
    OffsetDateTime::parse(text, &Rfc3339).or_else(|_| local()).ok()
}

/// Spells a time as RFC 3339 does: with a `T`, and an offset with hours, colon and minutes. In a query a `+` has become a blank.
fn usual(text: &str) -> Option<String> {
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes()[10], b' ' | b'T' | b't') {
        return None;
    }
    let end = rest.find([' ', '+', '-']).unwrap_or(rest.len());
    let (clock, offset) = (&rest[..end], rest[end..].trim_start());
    if offset.is_empty() {
        return Some(format!("{date}T{clock}"));
    }
    let (sign, digits) = match offset.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', offset.strip_prefix('+').unwrap_or(offset)),
    };
    let digits = digits.replacen(':', "", 1);
    let (hours, minutes) = (digits.get(..2)?, digits.get(2..)?);
    let minutes = if minutes.is_empty() { "00" } else { minutes };
    Some(format!("{date}T{clock}{sign}{hours}:{minutes}"))
}

/// A device's clock that cannot be right. Its records are kept all the same: nobody else knows when they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockFault {
    /// In the seventies: it was never set, or seconds were written where milliseconds are read.
    Seconds,
    /// Further ahead than the platform's own clock could be behind.
    Ahead,
}

impl ClockFault {
    /// The fault of a time that a device gave at `now`, if it has one.
    pub fn of(time: OffsetDateTime, now: OffsetDateTime, ahead: Duration) -> Option<Self> {
        if time < FIRST_DEVICES {
            return Some(Self::Seconds);
        }
        (time - now > ahead).then_some(Self::Ahead)
    }

    /// As the API and the metrics spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Ahead => "ahead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_the_same_time() {
        for text in [
            "2025-01-29T11:35:00Z",
            "2025-01-29t11:35:00z",
            "2025-01-29 11:35:00Z",
            "2025-01-29T11:35:00",
            "2025-01-29 11:35:00",
            "2025-01-29 11:35",
            "2025-01-29T12:35:00+01:00",
            "2025-01-29 12:35:00 +0100",
            "2025-01-29 12:35:00+01",
            "2025-01-29T12:35:00 01:00",
            "2025-01-29T06:05:00-0530",
            "1738150500000",
        ] {
            assert_eq!(read(text).map(OffsetDateTime::unix_timestamp), Some(1_738_150_500), "{text}");
        }
        assert_eq!(read("2025-01-29 11:35:00.250").unwrap().unix_timestamp_nanos(), 1_738_150_500_250_000_000);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "soon", "-5", "1.5", "2025-01-29", "2025-13-29T11:35:00Z", "2025-01-29X11:35:00", "2025-01-29 11:35:00 CET"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read("99999999999999999999"), None);
        assert_eq!(read("2025-01-29é11:35:00"), None);
    }

    #[test]
    fn clocks_that_cannot_be_right_are_noticed() {
        let now = read("2025-01-29T11:35:00Z").unwrap();
        let fault = |text: &str| ClockFault::of(read(text).unwrap(), now, Duration::from_secs(3600));
        assert_eq!(fault("1738150500"), Some(ClockFault::Seconds));
        assert_eq!(fault("1970-01-01T00:00:07Z"), Some(ClockFault::Seconds));
        assert_eq!(fault("2025-01-29T12:35:01Z"), Some(ClockFault::Ahead));
        assert_eq!((fault("2025-01-29T12:35:00Z"), fault("2001-01-01T00:00:00Z")), (None, None));
    }
}
