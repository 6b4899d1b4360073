//! RFC 3339 times: the difference to a base, in units of the last digit.

use std::fmt::Write as _;

use bytes::BytesMut;
use time::{Date, Month, OffsetDateTime};

/// Most digits of a second's fraction.
const MAX_FRACTION: u8 = 9;
/// The largest difference either way: its double fits in a varint with room for the escape.
const MAX_DIFFERENCE: u64 = 1 << 60;

/// How the times of a slot are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Digits of the second's fraction, at most 9.
    pub(super) digits: u8,
    /// Text behind the seconds: `Z` or an offset.
    pub(super) suffix: String,
    /// Units of the last digit since 1970 that stand for a difference of zero, as the time's own clock shows them.
    pub(super) base: i64,
}

impl Form {
    pub(super) fn new(digits: u8, suffix: String, base: i64) -> Option<Self> {
        let plain = suffix.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        (digits <= MAX_FRACTION && plain).then_some(Self { digits, suffix, base })
    }

    /// The form of a time that is written in one of the ways which can be restored.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (units, digits, suffix) = parse(text)?;
        Self::new(digits, suffix.to_owned(), units)
    }

    /// The difference, signed in the lowest bit. `None` where the time has another form.
    pub(super) fn pack(&self, text: &str) -> Option<u64> {
        let (units, digits, suffix) = parse(text)?;
        if digits != self.digits || suffix != self.suffix {
            return None;
        }
        let difference = units.checked_sub(self.base)?;
        let size = difference.unsigned_abs();
        (size < MAX_DIFFERENCE).then_some(size * 2 + u64::from(difference < 0))
    }

    /// Writes the time. `None`: there is no such time.
    pub(super) fn unpack(&self, packed: u64, out: &mut BytesMut) -> Option<()> {
        let size = i64::try_from(packed / 2).ok()?;
        let units = self.base.checked_add(if packed % 2 == 1 { -size } else { size })?;
        let unit = 10_i64.pow(u32::from(self.digits));
        let time = OffsetDateTime::from_unix_timestamp(units.div_euclid(unit)).ok()?;
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        if !(0..=9999).contains(&year) {
            return None;
        }
        let month = u8::from(month);
        write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}").ok()?;
        if self.digits > 0 {
            write!(out, ".{:0width$}", units.rem_euclid(unit), width = usize::from(self.digits)).ok()?;
        }
        out.extend_from_slice(self.suffix.as_bytes());
        Some(())
    }
}

/// Units since 1970, digits of the fraction, what is behind. Strict: only what [`Form::unpack`] writes.
fn parse(text: &str) -> Option<(i64, u8, &str)> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.as_bytes().get(range)?;
        digits.iter().try_fold(0_i64, |n, byte| byte.is_ascii_digit().then(|| n * 10 + i64::from(byte - b'0')))
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| text.as_bytes().get(*at) != Some(byte)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(day).ok()?).ok()?;
    let days = i64::from(date.to_julian_day() - Date::from_ordinal_date(1970, 1).ok()?.to_julian_day());
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    if digits > usize::from(MAX_FRACTION) || (digits == 0 && rest.starts_with('.')) {
        return None;
    }
    let (fraction, suffix) = if digits > 0 { (number(20..20 + digits)?, &rest[1 + digits..]) } else { (0, rest) };
    let units = seconds.checked_mul(10_i64.pow(digits as u32))?.checked_add(fraction)?;
    (suffix.len() <= 8).then_some((units, digits as u8, suffix))
}
