//! QUIC variable-length integers (RFC 9000, section 16), and reading a frame's body with them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::Error;

/// The largest number a varint holds: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `n`, which must not exceed [`MAX`]; a larger one is written as `MAX`.
pub fn put(n: u64, out: &mut BytesMut) {
    match n {
        0..=0x3f => out.put_u8(n as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | n as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | n as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | n.min(MAX)),
    }
}

/// How many bytes `n` takes.
pub fn size(n: u64) -> usize {
    match n {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Reads the varint at `at` without consuming it: the number and its size. `None` where bytes are missing.
pub fn peek(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    let size = 1 << (first >> 6);
    let encoded = bytes.get(at..at + size)?;
    let n = encoded[1..].iter().fold(u64::from(first & 0x3f), |n, &byte| (n << 8) | u64::from(byte));
    Some((n, size))
}

/// Appends a length and the text.
pub(super) fn put_text(text: &str, out: &mut BytesMut) {
    put(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

/// A frame's body while it is read.
pub(super) struct Body {
    bytes: Bytes,
    frame: &'static str,
}

impl Body {
    pub(super) fn new(bytes: Bytes, frame: &'static str) -> Self {
        Self { bytes, frame }
    }

    pub(super) fn number(&mut self) -> Result<u64, Error> {
        let (n, size) = peek(&self.bytes, 0).ok_or(Error::Truncated(self.frame))?;
        self.bytes.advance(size);
        Ok(n)
    }

    /// A full 64-bit number, which a varint cannot hold.
    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        if self.bytes.len() < 8 {
            return Err(Error::Truncated(self.frame));
        }
        Ok(self.bytes.get_u64())
    }

    pub(super) fn text(&mut self, limit: usize) -> Result<String, Error> {
        let length = self.number()?;
        if length > limit as u64 {
            return Err(Error::TooLong(self.frame));
        }
        let length = length as usize;
        if self.bytes.len() < length {
            return Err(Error::Truncated(self.frame));
        }
        let text = self.bytes.split_to(length);
        std::str::from_utf8(&text).map(str::to_owned).map_err(|_| Error::Malformed(self.frame))
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Ends the reading: bytes left over are an error, for they would be silently lost.
    pub(super) fn end(self) -> Result<(), Error> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Error::Malformed(self.frame)) }
    }

    pub(super) fn malformed(&self) -> Error {
        Error::Malformed(self.frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9000, appendix A.1.
    #[test]
    fn the_rfcs_examples() {
        for (bytes, n) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d][..], 494_878_333),
            (&[0x7b, 0xbd][..], 15_293),
            (&[0x25][..], 37),
            (&[0x40, 0x25][..], 37),
        ] {
            assert_eq!(peek(bytes, 0), Some((n, bytes.len())));
        }
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(n in 0..=MAX) {
            let mut out = BytesMut::new();
            put(n, &mut out);
            prop_assert_eq!(out.len(), size(n));
            prop_assert_eq!(peek(&out, 0), Some((n, out.len())));
            for cut in 0..out.len() {
                prop_assert_eq!(peek(&out[..cut], 0), None);
            }
        }
    }
}
