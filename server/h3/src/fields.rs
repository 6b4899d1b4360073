//! Checks the order of a head's fields: pseudo-header fields come first, each once, and none of an answer's (RFC 9114, section 4.3).
//!
//! `h3` takes pseudo-header fields in any order and lets the last one count, so the encoded block is read before `h3` decodes it
//! (RFC 9204, section 4.5). Only names are read. `h3` refuses a malformed block, and one that refers to a dynamic table.

/// Pseudo-header fields, each in plain text and in the Huffman code of RFC 7541, appendix B.
const PSEUDO: [(&[u8], &[u8]); 6] = [
    (b":authority", b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f"),
    (b":method", b"\xb9\x49\x53\x39\xe4"),
    (b":path", b"\xb9\x58\xd3\x3f"),
    (b":protocol", b"\xb9\x5d\x87\x49\xc8\x7a\x3f"),
    (b":scheme", b"\xb8\x82\x4e\x5a\x4b"),
    (b":status", b"\xb8\x84\x8d\x36\xa3"),
];
// Indices in `PSEUDO`.
const AUTHORITY: usize = 0;
const METHOD: usize = 1;
const PATH: usize = 2;
const SCHEME: usize = 4;
const STATUS: usize = 5;

/// Checks a request's field block. The error says what is wrong.
pub(super) fn check(block: &[u8]) -> Result<(), &'static str> {
    let mut lines = Lines(block);
    // Required Insert Count and Base.
    let prefix = lines.number(8).and_then(|_| lines.number(7));
    let mut seen = [false; PSEUDO.len()];
    let mut fields = false;
    while prefix.is_some()
        && let Some(line) = lines.next()
    {
        match line {
            Line::Field => fields = true,
            Line::Pseudo(STATUS) => return Err("a pseudo-header field of answers"),
            Line::Pseudo(_) if fields => return Err("a pseudo-header field behind others"),
            Line::Pseudo(which) if std::mem::replace(&mut seen[which], true) => return Err("a pseudo-header field twice"),
            Line::Pseudo(_) => {}
        }
    }
    Ok(())
}

/// The name of a field line.
enum Line {
    /// Index in [`PSEUDO`].
    Pseudo(usize),
    Field,
}

/// The unread rest of a block.
struct Lines<'b>(&'b [u8]);

impl Iterator for Lines<'_> {
    type Item = Line;

    /// The next line, up to the end or the first that cannot be read.
    fn next(&mut self) -> Option<Line> {
        let first = *self.0.first()?;
        let line = match first {
            // Indexed, in the static table.
            0xC0.. => return self.number(6).map(known),
            // A name of the static table, and a value.
            0x50..0x60 | 0x70..0x80 => known(self.number(4)?),
            // A name and a value as text.
            0x20..0x40 => {
                let coded = first & 0x08 != 0;
                let name = self.text(3)?;
                let which = PSEUDO.iter().position(|(plain, huffman)| name == if coded { *huffman } else { *plain });
                which.map_or(Line::Field, Line::Pseudo)
            }
            _ => return None,
        };
        self.text(7)?;
        Some(line)
    }
}

impl<'b> Lines<'b> {
    /// Reads an integer of which the first byte has `bits` bits (RFC 7541, section 5.1).
    fn number(&mut self, bits: u32) -> Option<usize> {
        let (&first, mut rest) = self.0.split_first()?;
        let most = (1 << bits) - 1;
        let mut number = usize::from(first) & most;
        if number == most {
            for shift in (0..28).step_by(7) {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                number += usize::from(byte & 0x7F) << shift;
                if byte & 0x80 == 0 {
                    self.0 = rest;
                    return Some(number);
                }
            }
            return None;
        }
        self.0 = rest;
        Some(number)
    }

    /// Reads a text, Huffman-coded or not, whose length has `bits` bits in the first byte.
    fn text(&mut self, bits: u32) -> Option<&'b [u8]> {
        let length = self.number(bits)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

/// The name at this index of the static table (RFC 9204, appendix A).
fn known(index: usize) -> Line {
    match index {
        0 => Line::Pseudo(AUTHORITY),
        1 => Line::Pseudo(PATH),
        15..=21 => Line::Pseudo(METHOD),
        22 | 23 => Line::Pseudo(SCHEME),
        24..=28 | 63..=71 => Line::Pseudo(STATUS),
        _ => Line::Field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `:method: GET`, `:scheme: https`, `:authority: h`, `:path: /`, as most clients write them.
    const GOOD: &[u8] = b"\0\0\xd1\xd7\x50\x01h\xc1";

    fn with(more: &[u8]) -> Result<(), &'static str> {
        check(&[GOOD, more].concat())
    }

    #[test]
    fn fields_may_follow() {
        assert_eq!(with(b""), Ok(()));
        // `accept: */*` of the table; `x: y`; a value whose length takes two bytes, behind which reading goes on.
        let more = [&b"\xdd\x21x\x01y\x21z\x7f\x01"[..], &[b'a'; 128]].concat();
        assert_eq!(with(&more), Ok(()));
        assert!(with(&[&more, &b"\xc1"[..]].concat()).is_err());
        // `:protocol: x`, coded and not.
        assert_eq!(with(b"\x2f\x00\xb9\x5d\x87\x49\xc8\x7a\x3f\x01x"), Ok(()));
        assert_eq!(with(b"\x27\x02:protocol\x01x"), Ok(()));
    }

    #[test]
    fn pseudo_fields_in_the_wrong_place_are_found() {
        assert_eq!(with(b"\xc1"), Err("a pseudo-header field twice"));
        assert_eq!(with(b"\x51\x06/other"), Err("a pseudo-header field twice"));
        assert_eq!(with(b"\x25:path\x02/x"), Err("a pseudo-header field twice"));
        assert_eq!(with(b"\x2c\xb9\x58\xd3\x3f\x02/x"), Err("a pseudo-header field twice"));
        assert_eq!(with(b"\xd9"), Err("a pseudo-header field of answers"));
        assert_eq!(with(b"\x5f\x09\x03431"), Err("a pseudo-header field of answers"));
        assert_eq!(check(b"\0\0\xdd\xd1"), Err("a pseudo-header field behind others"));
    }

    #[test]
    fn what_is_no_block_is_left_to_others() {
        for bad in [&b""[..], b"\0", b"\x01\0\x80", b"\0\0\x10", b"\0\0\x2f", b"\0\0\x51\x7f", b"\0\0\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(check(bad), Ok(()), "{bad:?}");
        }
    }
}
