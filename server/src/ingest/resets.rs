//! Stateless resets (RFC 9000, section 10.3): a node answers packets of a connection that it does not know by a token which only the node that made the
//! connection could know. A client that gets it connects again at once, and does not wait until the idle timeout says that nobody is there.
//!
//! quinn draws the key of these tokens anew with each process, so that a node which was killed could not say of its connections that they are gone. Ours
//! comes from JWT_SECRET, and in a cluster from NODE_NAME too: nodes that shared a key could be made to end each other's connections (section 21.11).

use std::time::Duration;

use aws_lc_rs::{
    hkdf,
    hmac::{self, HMAC_SHA256},
};
use secrecy::{ExposeSecret as _, SecretString};

/// Shortest time between two resets of a socket: after a restart each device is told at its next keep-alive, of twenty thousand some 1,300 a second.
/// A reset is smaller than the packet that it answers, and costs no more than to read that.
pub(super) const BETWEEN: Duration = Duration::from_micros(500);

/// The key of the node of this name.
pub(super) fn key(secret: &SecretString, node: &str) -> hmac::Key {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"motience")
        .extract(secret.expose_secret().as_bytes())
        .expand(&[b"stateless resets 1".as_slice(), node.as_bytes()], HMAC_SHA256)
        .expect("HKDF-SHA256 gives up to 8160 bytes")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_one_key_and_no_other_node_has_it() {
        let token = |secret: &str, node| hmac::sign(&key(&secret.into(), node), b"id").as_ref().to_vec();
        let one = token("secret", "one");
        assert_eq!(one, token("secret", "one"));
        for (secret, node) in [("secret", "two"), ("secret", ""), ("another", "one")] {
            assert_ne!(one, token(secret, node), "{secret} {node}");
        }
    }
}
