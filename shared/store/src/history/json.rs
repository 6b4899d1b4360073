//! JSON that PostgreSQL's JSONB can hold.
//!
//! JSONB refuses two things that JSON's grammar allows inside strings: the escape of the zero character, and halves of surrogate
//! pairs. A record with one must not fail the batch it came in, so each is replaced by U+FFFD, the replacement character. SQLite
//! would hold them; it is given the same, so that both tell the same history. Consumers are sent what the device wrote.

use std::borrow::Cow;

const REPLACEMENT: &str = "\\ufffd";

/// `json`, which is valid, with what JSONB refuses replaced.
pub(super) fn storable(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    // In valid JSON a backslash stands only inside a string, and always begins an escape.
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let taken = match unit(escape) {
            None => copy(&mut out, escape, 2),
            Some(0) => replace(&mut out, 6),
            Some(0xD800..=0xDBFF) if matches!(escape.get(6..).and_then(unit), Some(0xDC00..=0xDFFF)) => copy(&mut out, escape, 12),
            Some(0xD800..=0xDFFF) => replace(&mut out, 6),
            Some(_) => copy(&mut out, escape, 6),
        };
        rest = escape.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The JSON string whose content is `json`: how a value is kept that a database cannot hold as such.
pub(super) fn quoted(json: &str) -> String {
    serde_json::Value::from(json).to_string()
}

fn copy(out: &mut String, escape: &str, len: usize) -> usize {
    // An escape is followed by at least the closing quote; `\` before a character of several bytes is not valid JSON.
    out.push_str(escape.get(..len).unwrap_or(escape));
    len
}

fn replace(out: &mut String, len: usize) -> usize {
    out.push_str(REPLACEMENT);
    len
}

/// The UTF-16 unit of an escape `\uXXXX` at the beginning of `text`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_jsonb_refuses_is_replaced() {
        for (given, kept) in [
            (r#"{"a":"plain","b":1.50}"#, r#"{"a":"plain","b":1.50}"#),
            (r#""\u0000""#, r#""\ufffd""#),
            (r#""x\u0000y\u0041\n""#, r#""x\ufffdy\u0041\n""#),
            (r#""\\u0000""#, r#""\\u0000""#),
            (r#""\\\u0000""#, r#""\\\ufffd""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\uD83Dx\uDE00""#, r#""\ufffdx\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ud83d\n""#, r#""\ufffd\n""#),
            (r#""é\ud83d""#, r#""é\ufffd""#),
        ] {
            assert_eq!(storable(given), kept);
            assert!(serde_json::from_str::<serde_json::Value>(&storable(given)).is_ok());
        }
    }

    #[test]
    fn a_quoted_value_is_a_string_of_itself() {
        let quoted = quoted(r#"{"a":"\u0000"}"#);
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), r#"{"a":"\u0000"}"#);
    }
}
