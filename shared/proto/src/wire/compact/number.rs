//! Numbers: the digits of the text as one integer, at a fixed number of decimals.

use bytes::{BufMut, BytesMut};

/// Most decimals a style may have.
const MAX_DECIMALS: u8 = 15;
/// The largest number without sign: its double fits in a varint with room for the escape.
const MAX_DIGITS: u64 = 1 << 60;

/// How the numbers of a slot are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Digits behind the point.
    decimals: u8,
    zeros: Zeros,
}

/// Treatment of zeros at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeros {
    /// All decimals are written: `21.50`.
    Kept,
    /// They are left out, and the point with them: `21.5`, `21`.
    Cut,
    /// They are left out but for one: `21.5`, `21.0`.
    One,
}

impl Style {
    /// The style that writes both numbers as they are, or nearly.
    pub(super) fn of(samples: [&str; 2]) -> Self {
        let decimals = samples.map(|text| text.split_once('.').map_or(0, |(_, fraction)| fraction.len()));
        let most = u8::try_from(decimals[0].max(decimals[1])).unwrap_or(u8::MAX).min(MAX_DECIMALS);
        let zero = |text: &str| text.contains('.') && text.ends_with('0');
        let zeros = if decimals[0] == decimals[1] && samples.iter().any(|text| zero(text)) && most > 1 {
            Zeros::Kept
        } else if decimals.contains(&0) {
            Zeros::Cut
        } else {
            Zeros::One
        };
        Self { decimals: most, zeros }
    }

    /// This style with room for one more number.
    pub(super) fn widened(self, text: &str) -> Self {
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        let decimals = u8::try_from(fraction.len()).unwrap_or(u8::MAX).min(MAX_DECIMALS).max(self.decimals);
        let zeros = match fraction {
            "" => Zeros::Cut,
            "0" => Zeros::One,
            fraction if fraction.ends_with('0') => Zeros::Kept,
            _ if self.zeros == Zeros::Kept => Zeros::One,
            _ => self.zeros,
        };
        Self { decimals, zeros }
    }

    pub(super) fn code(self) -> u64 {
        u64::from(self.decimals) * 3
            + match self.zeros {
                Zeros::Kept => 0,
                Zeros::Cut => 1,
                Zeros::One => 2,
            }
    }

    pub(super) fn from_code(code: u64) -> Option<Self> {
        let zeros = match code % 3 {
            0 => Zeros::Kept,
            1 => Zeros::Cut,
            _ => Zeros::One,
        };
        let decimals = u8::try_from(code / 3).ok().filter(|decimals| *decimals <= MAX_DECIMALS)?;
        Some(Self { decimals, zeros })
    }

    /// The number as an integer, signed in the lowest bit. `None` where this style would not write it so.
    pub(super) fn pack(self, text: &str) -> Option<u64> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let missing = usize::from(self.decimals).checked_sub(fraction.len())?;
        let mut value: u64 = 0;
        for byte in whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', missing)) {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            value = value.checked_mul(10)?.checked_add(digit).filter(|value| *value < MAX_DIGITS)?;
        }
        let packed = value * 2 + u64::from(negative);
        let mut again = BytesMut::new();
        self.unpack(packed, &mut again);
        (again == text.as_bytes()).then_some(packed)
    }

    /// Writes a packed number.
    pub(super) fn unpack(self, packed: u64, out: &mut BytesMut) {
        if packed % 2 == 1 {
            out.put_u8(b'-');
        }
        let decimals = usize::from(self.decimals);
        let digits = format!("{:0>width$}", packed / 2, width = decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        out.put_slice(whole.as_bytes());
        let kept = match self.zeros {
            Zeros::Kept => fraction,
            Zeros::Cut => fraction.trim_end_matches('0'),
            Zeros::One if decimals > 0 => {
                let cut = fraction.trim_end_matches('0');
                if cut.is_empty() { &fraction[..1] } else { cut }
            }
            Zeros::One => "",
        };
        if !kept.is_empty() {
            out.put_u8(b'.');
            out.put_slice(kept.as_bytes());
        }
    }
}
