//! The record of the load test: a realistic size, and inside it what the consumer needs to measure its delivery.

use std::{fmt::Write as _, time::Instant};

use bytes::Bytes;

/// Facts that a record carries about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Number of the device within the test.
    pub(crate) device: u32,
    /// Number of the record within the device, from 1.
    pub(crate) number: u64,
    /// When it was due to be sent, in nanoseconds of the test's own clock.
    pub(crate) due: u64,
}

/// The test's clock: one for all tasks of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestClock(Instant);

impl TestClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(self) -> u64 {
        self.at(Instant::now())
    }

    /// Nanoseconds from the start to an instant.
    pub(crate) fn at(self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A record of about `size` bytes.
pub(crate) fn record(mark: Mark, size: usize) -> Bytes {
    let mut json = String::with_capacity(size + 32);
    // Writing to memory cannot fail.
    let _ = write!(
        json,
        r#"{{"device_id":"load-{:05}","timestamp":"2025-01-29T11:35:00Z","data":{{"d":{},"n":{},"t":{},"pad":""#,
        mark.device, mark.device, mark.number, mark.due
    );
    json.extend(std::iter::repeat_n('x', size.saturating_sub(json.len() + 3)));
    json.push_str("\"}}");
    json.into()
}

/// Finds the mark in a consumer's message.
pub(crate) fn mark(message: &str) -> Option<Mark> {
    let data = &message[message.find(r#""data":{"d":"#)? + 12..];
    let (device, rest) = data.split_once(r#","n":"#)?;
    let (number, rest) = rest.split_once(r#","t":"#)?;
    let (due, _) = rest.split_once(',')?;
    Some(Mark { device: device.parse().ok()?, number: number.parse().ok()?, due: due.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_way() {
        let sent = Mark { device: 7, number: 42, due: 1_234_567_890 };
        let json = record(sent, 150);
        assert_eq!(json.len(), 150);
        let message = std::str::from_utf8(&json).unwrap().replacen('{', r#"{"producer_id":"3","#, 1);
        assert_eq!(mark(&message), Some(sent));
        assert_eq!(mark("{}"), None);
    }
}
