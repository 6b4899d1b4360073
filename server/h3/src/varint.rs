//! QUIC variable-length integers (RFC 9000, section 16), as `h3` reads and writes them.

use bytes::BytesMut;
use h3::proto::varint::VarInt;

/// Reads the integer at `at` without consuming it: the number and its size. `None` where bytes are missing.
pub(crate) fn peek(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut rest = bytes.get(at..)?;
    let before = rest.len();
    let number = VarInt::decode(&mut rest).ok()?;
    Some((number.into_inner(), before - rest.len()))
}

/// Appends `number`; one that does not fit is written as the largest that does.
pub(crate) fn put(number: u64, out: &mut BytesMut) {
    VarInt::from_u64(number).unwrap_or(VarInt::MAX).encode(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_are_read_where_they_lie() {
        for number in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut bytes = BytesMut::from(&b"x"[..]);
            put(number, &mut bytes);
            assert_eq!(peek(&bytes, 1), Some((number, bytes.len() - 1)));
            assert_eq!(peek(&bytes[..bytes.len() - 1], 1), None);
        }
        assert_eq!(peek(b"\x40\x01", 0), Some((1, 2)), "a longer form than needed");
        assert_eq!(peek(b"", 1), None);
    }
}
