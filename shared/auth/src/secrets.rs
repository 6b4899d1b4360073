//! Secrets that are shown once and kept as a hash: keys of programs, tokens that reset a password, invitations.
//!
//! `motk_`, 64 hexadecimal digits of randomness, 8 of a CRC-32 over all before it. Programs that look for leaked secrets find the prefix and
//! need no account to tell a real one by its checksum; a mistyped one is refused without a look at the database.

use aws_lc_rs::digest::{SHA256, digest};

use super::random;

/// Random bytes of a secret.
const RANDOM_BYTES: usize = 32;
/// Hexadecimal digits of the checksum.
const CHECKSUM_DIGITS: usize = 8;

/// The use of a secret, which its prefix tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A key of a program.
    Key,
    /// A token that sets a new password.
    Reset,
    /// An invitation to register.
    Invitation,
}

impl SecretKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Key => "motk_",
            Self::Reset => "motr_",
            Self::Invitation => "moti_",
        }
    }

    /// Whether the text begins as a secret of this kind does.
    pub fn begins(self, text: &str) -> bool {
        text.starts_with(self.prefix())
    }

    /// A new secret, which is shown once, and its [`SecretKind::hash`], which is stored.
    pub fn make(self) -> (String, String) {
        let body = format!("{}{}", self.prefix(), random::hex(RANDOM_BYTES));
        let secret = format!("{body}{:08x}", crc32fast::hash(body.as_bytes()));
        let hash = secret_hash(&secret);
        (secret, hash)
    }

    /// The hash by which a secret is stored and found; `None` where the text is no secret of this kind, or is mistyped.
    ///
    /// One SHA-256 is enough, and a slow hash with a salt would gain nothing: those make up for passwords that can be guessed, and nobody
    /// guesses 256 random bits, however fast each guess is. A fast one lets a key be checked with every request.
    pub fn hash(self, text: &str) -> Option<String> {
        let well_formed = text.len() == self.prefix().len() + 2 * RANDOM_BYTES + CHECKSUM_DIGITS && self.begins(text) && text.is_ascii();
        let (body, checksum) = text.split_at_checked(text.len().checked_sub(CHECKSUM_DIGITS)?).filter(|_| well_formed)?;
        (format!("{:08x}", crc32fast::hash(body.as_bytes())) == checksum).then(|| secret_hash(text))
    }
}

/// The hash, in hexadecimal digits, by which a secret is stored that nobody can guess: see [`SecretKind::hash`].
pub fn secret_hash(text: &str) -> String {
    sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of these bytes.
pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_hash_and_a_mistyped_one_by_its_checksum() {
        let ((key, hash), (other, _)) = (SecretKind::Key.make(), SecretKind::Key.make());
        assert!(key.starts_with("motk_") && key.len() == 77, "{key}");
        assert_eq!((hash.len(), SecretKind::Key.hash(&key).as_ref()), (64, Some(&hash)));
        assert!(!key.contains(&hash) && SecretKind::Key.hash(&other) != Some(hash));
        for at in 5..key.len() {
            let wrong = if key.as_bytes()[at] == b'0' { "1" } else { "0" };
            let mistyped = format!("{}{wrong}{}", &key[..at], &key[at + 1..]);
            assert_eq!(SecretKind::Key.hash(&mistyped), None, "{at}");
        }
        for text in ["", "motk_", "mötk_", &key[1..], &key[..76], &format!("{key}0"), &key.to_uppercase(), &"ö".repeat(39)] {
            assert_eq!(SecretKind::Key.hash(text), None, "{text}");
        }
        assert_eq!(SecretKind::Reset.hash(&key), None, "each kind has its own use");
    }
}
