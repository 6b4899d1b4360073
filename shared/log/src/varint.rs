//! Numbers of variable length: LEB128, ZigZag where they may fall. The segments of an embedded log and the chunks in Redis are made of them.

use bytes::Bytes;

/// Most bytes of a number.
const LONGEST: usize = 10;

pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Takes a number; `None` where the bytes are none.
pub(crate) fn get(from: &mut Bytes) -> Option<u64> {
    let length = from.iter().take(LONGEST).position(|byte| byte & 0x80 == 0)? + 1;
    // The tenth byte has room for one bit.
    if length == LONGEST && from[LONGEST - 1] > 1 {
        return None;
    }
    let bytes = from.split_to(length);
    Some(bytes.iter().rev().fold(0, |n, byte| n << 7 | u64::from(byte & 0x7f)))
}

pub(crate) fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, ((n << 1) ^ (n >> 63)).cast_unsigned());
}

/// Takes a number that may be below zero; `None` where the bytes are none.
pub(crate) fn get_signed(from: &mut Bytes) -> Option<i64> {
    let n = get(from)?;
    Some((n >> 1).cast_signed() ^ -((n & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_read_back(n in any::<u64>(), shift in 0..64_u32, rest in any::<u8>()) {
            let (n, mut out) = (n >> shift, Vec::new());
            put(&mut out, n);
            put_signed(&mut out, n.cast_signed());
            put_signed(&mut out, n.cast_signed().wrapping_neg());
            out.push(rest);
            let mut bytes = Bytes::from(out);
            prop_assert_eq!(get(&mut bytes), Some(n));
            prop_assert_eq!(get_signed(&mut bytes), Some(n.cast_signed()));
            prop_assert_eq!(get_signed(&mut bytes), Some(n.cast_signed().wrapping_neg()));
            prop_assert_eq!(&bytes[..], &[rest]);
        }
    }

    #[test]
    fn other_bytes_are_no_number() {
        let read = |bytes: &[u8]| get(&mut Bytes::copy_from_slice(bytes));
        let (full, over) = ([&[0xff; 9][..], &[1]].concat(), [&[0xff; 9][..], &[2]].concat());
        assert_eq!(read(&full), Some(u64::MAX));
        for other in [&over[..], &[0xff; 11], &[0x80], &[]] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
