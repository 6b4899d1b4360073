//! The wall clock: records carry the time of their measurement.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a device's records carry its own wall clock; nothing here decides by it")]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// The time now to the millisecond: nine digits would be a third of a small record.
pub fn now_in_millis() -> OffsetDateTime {
    let now = now();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}

/// The time now as text.
pub fn timestamp() -> String {
    now_in_millis().format(&Rfc3339).unwrap_or_else(|_| "1970-01-01T00:00:00Z".into())
}

/// The time now in milliseconds since 1970; 0 before.
pub fn unix_millis() -> u64 {
    u64::try_from(now().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}
