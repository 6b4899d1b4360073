//! Session tickets that every node of a platform can read: the session itself, sealed under a key that all derive from JWT_SECRET.
//!
//! The key changes every [`PERIOD`], and tickets of the last two are still read. A ticket says nothing of its use, so one that was sent again
//! would be early data anew: who acts on early data asks the cluster's register first (`connection.rs`). rustls refuses early data by itself where the
//! ticket's age and the client's word on it differ by a minute, so the register need not remember for longer than [`REMEMBERED`].

use std::{fmt::Write as _, time::Duration};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf,
};
use secrecy::{ExposeSecret as _, SecretString};

/// How long tickets are sealed under one key. Clients may keep a ticket for a day.
const PERIOD: u64 = 24 * 3600;
/// Bytes that name the period, ahead of the nonce.
const HEAD: usize = 8;
/// How long the use of a ticket is remembered: well above the minute by which its age may be wrong, and what clocks of nodes may differ.
pub(super) const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Name of one ticket: the nonce of its seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TicketId([u8; NONCE_LEN]);

impl TicketId {
    /// In hexadecimal.
    pub(super) fn name(self) -> String {
        self.0.iter().fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        })
    }
}

/// Seals and reads tickets.
pub(super) struct TicketKeys {
    secret: SecretString,
}

impl TicketKeys {
    pub(super) fn new(secret: SecretString) -> Self {
        Self { secret }
    }

    /// The ticket of a session, at this second of Unix time.
    pub(super) fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let head = (now / PERIOD).to_be_bytes();
        let mut sealed = session.to_vec();
        let nonce = self.key(&head).seal_in_place_append_tag(Aad::from(head), &mut sealed).ok()?;
        Some([&head[..], nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// The session of a ticket, and the ticket's name; `None` for what is no ticket of ours, or is too old.
    pub(super) fn open(&self, ticket: &[u8], now: u64) -> Option<(TicketId, Vec<u8>)> {
        let (head, rest) = ticket.split_first_chunk::<HEAD>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (made, now) = (u64::from_be_bytes(*head), now / PERIOD);
        // A clock may be ahead of ours.
        if !(now.saturating_sub(1)..=now + 1).contains(&made) {
            return None;
        }
        let mut session = sealed.to_vec();
        let length = self.key(head).open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*head), &mut session).ok()?.len();
        session.truncate(length);
        Some((TicketId(*nonce), session))
    }

    fn key(&self, period: &[u8; HEAD]) -> RandomizedNonceKey {
        let mut key = [0; 32];
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"motience")
            .extract(self.secret.expose_secret().as_bytes())
            .expand(&[b"session tickets 1".as_slice(), period.as_slice()], &AES_256_GCM)
            .and_then(|okm| okm.fill(&mut key))
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        RandomizedNonceKey::new(&AES_256_GCM, &key).expect("AES-256 has keys of 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_by_whoever_has_the_secret_for_its_time() {
        let (one, same, other) = (TicketKeys::new("secret".into()), TicketKeys::new("secret".into()), TicketKeys::new("another".into()));
        let now = 20_000 * PERIOD + 5;
        let ticket = one.seal(b"session", now).unwrap();
        let (id, session) = same.open(&ticket, now).unwrap();
        assert_eq!((&session[..], id.name().len()), (&b"session"[..], 2 * NONCE_LEN));
        assert_ne!(one.open(&one.seal(b"session", now).unwrap(), now).unwrap().0, id, "each has a name of its own");
        assert!(other.open(&ticket, now).is_none());
        for (later, good) in [(PERIOD, true), (2 * PERIOD - 6, true), (2 * PERIOD, false)] {
            assert_eq!(same.open(&ticket, now + later).is_some(), good, "{later}");
        }
        assert!(same.open(&ticket, now - PERIOD).is_some() && same.open(&ticket, now - 2 * PERIOD).is_none());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(same.open(&changed, now).is_none(), "{at}");
            assert!(same.open(&ticket[..at], now).is_none());
        }
    }
}
