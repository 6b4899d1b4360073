//! Names of files in the state folder: the same after every update, and one for each thing they are about.

/// FNV-1a over the parts, with a zero byte between them. Not std's hasher, which does not promise to stay as it is.
pub(super) fn hash(parts: &[&[u8]]) -> u64 {
    parts.join(&0).iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_always_was() {
        assert_eq!(hash(&[b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
    }
}
