//! `every`: a length of time.

use std::time::Duration;

use super::{Error, text::Text};

/// The shortest: below it sampling costs more than it saves.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// `500ms`, `10s`, `5m`, `1h`; a bare number counts seconds, as in the settings.
pub(super) fn parse(expression: &str) -> Result<Duration, Error> {
    let mut text = Text::new("every", expression)?;
    text.skip_blanks();
    let begin = text.at();
    let digits = text.take_while(|c| c.is_ascii_digit());
    if digits.is_empty() {
        return Err(text.wrong("a time such as 500ms, 10s, 5m or 1h is expected here"));
    }
    let unit_at = text.at();
    let unit = text.take_while(|c| !c.is_whitespace());
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(text.wrong_at(unit_at, "the units are ms, s, m and h")),
    };
    text.end()?;
    let length = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)).map(Duration::from_millis);
    match length {
        Some(length) if (SHORTEST..=LONGEST).contains(&length) => Ok(length),
        _ => Err(text.wrong_at(begin, "the time must lie between 100ms and 24h")),
    }
}
