//! Messages between nodes carry a seal, so that only who knows the installation's secret is believed.
//!
//! Whoever may publish on a channel of Redis could otherwise hand consumers records that no device sent, or end any login.
//!
//! A published chunk has two seals in one. The sender's node makes an HMAC of all that it knows: channel, log epoch, producer epoch, chunk.
//! The offset is given only by the function that appends. So that HMAC is not published: it is lent to the function,
//! which publishes a hash of it and of the place. Whoever receives the chunk makes the HMAC again from what came, and compares
//! the hash. A record taken from one place and published at another is no better than one made up.

use std::fmt;

use aws_lc_rs::{
    constant_time, digest,
    hkdf::{self, KeyType},
    hmac,
};
use bytes::Bytes;
use motience_proto::model::{LogEpoch, ProducerEpoch};
use secrecy::{ExposeSecret, SecretString};

/// Bytes of a message's seal in hex.
const MESSAGE: usize = 64;

/// The installation's key for messages between nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seal(hmac::Key);

/// Nothing but a length, as `hkdf` wants it.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

impl Seal {
    /// The key that follows from the secret which signs tokens: a key of its own, so that neither tells anything of the other.
    pub(super) fn new(secret: &SecretString) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"motience");
        let mut key = [0; 32];
        salt.extract(secret.expose_secret().as_bytes())
            .expand(&[b"messages between nodes 1"], Length)
            .and_then(|okm| okm.fill(&mut key))
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// Seal of a chunk without its offset, in hex: the function completes it.
    pub(super) fn chunk(&self, channel: &str, log_epoch: LogEpoch, sender: ProducerEpoch, chunk: &[u8]) -> String {
        let mut seal = self.begin("chunk", channel);
        seal.update(&log_epoch.0.to_be_bytes());
        seal.update(&sender.0.to_be_bytes());
        seal.update(chunk);
        hex(seal.sign().as_ref())
    }

    /// A sealed message of the bus: seal and message, one blank between them.
    pub(super) fn message(&self, channel: &str, message: &[u8]) -> Vec<u8> {
        [self.of_message(channel, message).as_bytes(), b" ", message].concat()
    }

    /// The message that came by this channel, where its seal is good.
    pub(super) fn opened(&self, channel: &str, sealed: &Bytes) -> Option<Bytes> {
        let (seal, rest) = sealed.split_at_checked(MESSAGE)?;
        let message = rest.strip_prefix(b" ")?;
        same(self.of_message(channel, message).as_bytes(), seal).then(|| sealed.slice_ref(message))
    }

    fn of_message(&self, channel: &str, message: &[u8]) -> String {
        let mut seal = self.begin("event", channel);
        seal.update(message);
        hex(seal.sign().as_ref())
    }

    /// A seal is good for one kind of message and one channel.
    fn begin(&self, kind: &str, channel: &str) -> hmac::Context {
        let mut seal = hmac::Context::with_key(&self.0);
        seal.update(format!("{kind} {} {channel}\n", channel.len()).as_bytes());
        seal
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

/// Seal that the function publishes, made of a lent one, in hex; see `append` in motience.lua. SHA-1 is what a function of Redis has: here it
/// is keyed, and by a key that is used once, so that its known weakness (collisions of what one has chosen oneself) is none.
pub(super) fn placed(lent: &str, first: &str, omitted: &str) -> String {
    hex(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{lent} {first} {omitted} {lent}").as_bytes()).as_ref())
}

/// Compares in a time that tells nothing.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|&byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_good_for_one_secret_one_channel_and_one_text() {
        let (ours, theirs) = (Seal::new(&"a secret".into()), Seal::new(&"another".into()));
        let sealed = Bytes::from(ours.message("m:bus", b"{}"));
        assert_eq!(ours.opened("m:bus", &sealed), Some(Bytes::from_static(b"{}")));
        assert_eq!(theirs.opened("m:bus", &sealed), None);
        assert_eq!(ours.opened("m:reports", &sealed), None);
        for other in [[&sealed[..], b" "].concat(), sealed[..sealed.len() - 1].to_vec(), b"{}".to_vec()] {
            assert_eq!(ours.opened("m:bus", &other.into()), None);
        }
    }

    /// Seals as nodes of earlier versions make them, computed apart from this code: with others, nodes of two versions would not hear each other.
    #[test]
    fn seals_are_those_of_earlier_versions() {
        let seal = Seal::new(&"a secret".into());
        let message = "a4e14ab5624450d935f46d2ef99e9fd78f264e38c2d9937f9a026c1e3aa85346 {\"type\":\"restored\"}";
        assert_eq!(seal.message("m:a:bus", br#"{"type":"restored"}"#), message.as_bytes());
        let lent = seal.chunk("m:a:{7-99}:live", LogEpoch(3), ProducerEpoch(7), b"\x01\x05\x01\x02\x02{}");
        assert_eq!(lent, "08026734d104851ca9e0573a0716228b53f6502531e4a196ecbefc3205f02628");
        assert_eq!(placed(&lent, "12", "0"), "6d7a335f65f55729a2eea492d1a2e1043c07352f");
    }

    #[test]
    fn a_chunk_is_sealed_as_a_whole_and_in_its_place() {
        let seal = Seal::new(&"a secret".into());
        let lent = |channel: &str, log_epoch, sender, chunk: &[u8]| seal.chunk(channel, LogEpoch(log_epoch), ProducerEpoch(sender), chunk);
        let good = lent("c", 1, 2, b"abc");
        for other in [lent("d", 1, 2, b"abc"), lent("c", 3, 2, b"abc"), lent("c", 1, 3, b"abc"), lent("c", 1, 2, b"ab")] {
            assert_ne!(good, other);
        }
        assert_ne!(placed(&good, "5", ""), placed(&good, "6", ""));
        assert_ne!(placed(&good, "5", ""), placed(&good, "5", "0"));
        assert_eq!(placed("k", "5", "").len(), 40);
    }
}
