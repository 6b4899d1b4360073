//! Unguessable bytes from the operating system.

/// Bytes in an id: 128 bits, which nobody guesses and which never repeat.
const ID_BYTES: usize = 16;

/// A new unguessable id of 32 hexadecimal digits: for tokens and families.
pub fn id() -> String {
    hex(ID_BYTES)
}

/// `bytes` random bytes as hexadecimal digits.
pub(super) fn hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("the operating system gives random bytes once it has started");
    random.iter().fold(String::with_capacity(bytes * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_differ() {
        let (a, b) = (id(), id());
        assert_eq!(a.len(), 32);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }
}
