//! The values of a JSON text, found without a tree.

use std::ops::Range;

use super::MAX_SLOTS;

/// Kind of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Number,
    /// Text between the quotes.
    Text,
    /// `true`, `false` or `null`.
    Word,
}

/// A value that is no object or array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) at: Range<usize>,
    pub(super) kind: Kind,
}

/// All values, rising. `None` where there are too many, or where this is no JSON; not all that is no JSON is seen, which
/// does no harm, as any text is restored as it was.
pub(super) fn tokens(json: &str) -> Option<Vec<Token>> {
    let bytes = json.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let (end, token) = match byte {
            b'"' => {
                let end = closing_quote(bytes, at + 1)?;
                let key = bytes[end + 1..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                (end + 1, (!key).then_some(Token { at: at + 1..end, kind: Kind::Text }))
            }
            b'-' | b'0'..=b'9' => {
                let end = until(bytes, at, |byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                (end, Some(Token { at: at..end, kind: Kind::Number }))
            }
            b'a'..=b'z' => {
                let end = until(bytes, at, |byte| byte.is_ascii_lowercase());
                (end, Some(Token { at: at..end, kind: Kind::Word }))
            }
            _ => (at + 1, None),
        };
        tokens.extend(token);
        if tokens.len() > MAX_SLOTS {
            return None;
        }
        at = end;
    }
    Some(tokens)
}

fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn until(bytes: &[u8], from: usize, inside: impl Fn(u8) -> bool) -> usize {
    bytes[from..].iter().position(|byte| !inside(*byte)).map_or(bytes.len(), |length| from + length)
}
