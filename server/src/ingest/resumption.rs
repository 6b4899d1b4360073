//! TLS for nodes that share their sessions: a ticket is the sealed session (`tickets.rs`), so that any node resumes it, with early data.
//!
//! rustls allows early data only where the server keeps the sessions: the client gets a name, and the server looks the session up. So each connection has a
//! desk of its own that stands for the store. The desk notes the session that rustls puts under a name; the message with the ticket, which QUIC sees before
//! it is encrypted, gets the sealed session in place of the name; and a name that comes back is opened. The transcript of the handshake ends
//! before tickets are sent, so no signature covers what is replaced.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use motience_runtime::clock::Clock;
use parking_lot::Mutex;
use quinn::ConnectionId;
use quinn_proto::{
    Side, TransportError,
    crypto::rustls::QuicServerConfig,
    crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session, UnsupportedVersion, rustls::HandshakeData},
    transport_parameters::TransportParameters,
};
use rustls::{ServerConfig, server::StoresServerSessions};

use super::{
    Error,
    tickets::{TicketId, TicketKeys},
};

/// Tickets that a connection may have waiting for their message.
const MOST_TICKETS: usize = 8;
/// Type of the handshake message with a ticket (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
/// Bytes of a handshake message before its body: type and length.
const MESSAGE_HEAD: usize = 4;
/// Bytes of a ticket's message before its nonce: lifetime and the number that hides its age.
const TICKET_HEAD: usize = 8;

/// Knowledge that a handshake has brought.
pub(super) struct Shown {
    /// The name of the protocol that the client speaks.
    pub(super) protocol: Option<Vec<u8>>,
    /// The ticket of a client whose early data is taken.
    pub(super) early: Option<TicketId>,
}

impl Shown {
    /// That of a connection's handshake, whether sessions are shared or not.
    pub(super) fn of(told: Box<dyn Any>) -> Self {
        match told.downcast::<Self>() {
            Ok(shown) => *shown,
            Err(told) => Self { protocol: told.downcast::<HandshakeData>().ok().and_then(|told| told.protocol), early: None },
        }
    }
}

/// Configuration of an endpoint whose sessions are shared.
pub(super) struct SharedSessions {
    tls: Arc<ServerConfig>,
    quic: QuicServerConfig,
    keys: Arc<TicketKeys>,
    clock: Clock,
}

impl SharedSessions {
    pub(super) fn new(tls: Arc<ServerConfig>, keys: TicketKeys, clock: Clock) -> Result<Self, Error> {
        let quic = QuicServerConfig::try_from(Arc::clone(&tls)).map_err(|e| Error::Tls(e.to_string()))?;
        Ok(Self { tls, quic, keys: Arc::new(keys), clock })
    }
}

impl crypto::ServerConfig for SharedSessions {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.quic.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.quic.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let desk =
            Arc::new(Desk { keys: Arc::clone(&self.keys), clock: self.clock.clone(), given: Mutex::default(), taken: OnceLock::new() });
        let mut tls = ServerConfig::clone(&self.tls);
        tls.session_storage = Arc::clone(&desk) as Arc<dyn StoresServerSessions>;
        let quic = QuicServerConfig::try_from(Arc::new(tls)).expect("the same configuration was good when the endpoint was opened");
        Box::new(Resumable { inner: Arc::new(quic).start_session(version, params), desk })
    }
}

/// Stands for the store of sessions, for one connection.
struct Desk {
    keys: Arc<TicketKeys>,
    clock: Clock,
    /// Sessions under the names that rustls gave them, until their message is written.
    given: Mutex<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The ticket that the client came with.
    taken: OnceLock<TicketId>,
}

impl Desk {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().unix_timestamp()).unwrap_or(0)
    }

    /// Puts the sealed session in place of its name into each message with a ticket. A session that cannot be sealed keeps a name that nobody knows.
    fn fill(&self, buffer: &mut Vec<u8>, from: usize) {
        let mut given = self.given.lock();
        if given.is_empty() {
            return;
        }
        let written = buffer.split_off(from);
        let mut rest = &written[..];
        while let Some((message, behind)) = message(rest) {
            let filled = ticket(message).and_then(|(before, name, after)| {
                let at = given.iter().position(|(known, _)| known == name)?;
                let sealed = self.keys.seal(&given.swap_remove(at).1, self.now())?;
                assemble(before, &sealed, after)
            });
            match filled {
                Some(filled) => buffer.extend_from_slice(&filled),
                None => buffer.extend_from_slice(message),
            }
            rest = behind;
        }
        buffer.extend_from_slice(rest);
        if given.is_empty() {
            *given = Vec::new();
        }
    }
}

/// The first whole handshake message, and what is behind it.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let [_, a, b, c, ..] = *bytes else { return None };
    bytes.split_at_checked(MESSAGE_HEAD + u32::from_be_bytes([0, a, b, c]) as usize)
}

/// The ticket in its message, with what is before its length and behind it.
fn ticket(message: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let nonce_at = MESSAGE_HEAD + TICKET_HEAD;
    let nonce = usize::from(*message.get(nonce_at).filter(|_| message.first() == Some(&NEW_SESSION_TICKET))?);
    let (before, rest) = message.split_at_checked(nonce_at + 1 + nonce)?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (ticket, after) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((before, ticket, after))
}

/// The message with this ticket.
fn assemble(before: &[u8], ticket: &[u8], after: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(ticket.len()).ok()?.to_be_bytes();
    let mut message = [before, &length, ticket, after].concat();
    let body = u32::try_from(message.len() - MESSAGE_HEAD).ok()?.to_be_bytes();
    message[1..MESSAGE_HEAD].copy_from_slice(&body[1..]);
    Some(message)
}

impl std::fmt::Debug for Desk {
    /// Without the sessions.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl StoresServerSessions for Desk {
    fn put(&self, name: Vec<u8>, session: Vec<u8>) -> bool {
        let mut given = self.given.lock();
        let has_room = given.len() < MOST_TICKETS;
        if has_room {
            given.push((name, session));
        }
        has_room
    }

    fn get(&self, _name: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (id, session) = self.keys.open(ticket, self.now())?;
        // Only the first ticket of a client can bring early data.
        let _ = self.taken.set(id);
        Some(session)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// A session whose tickets any node can read.
struct Resumable {
    inner: Box<dyn Session>,
    desk: Arc<Desk>,
}

impl Session for Resumable {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let told = self.inner.handshake_data()?.downcast::<HandshakeData>().ok()?;
        let early = self.desk.taken.get().copied().filter(|_| self.inner.early_crypto().is_some());
        Some(Box::new(Shown { protocol: told.protocol, early }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let from = buf.len();
        let keys = self.inner.write_handshake(buf);
        self.desk.fill(buf, from);
        keys
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(&self, output: &mut [u8], label: &[u8], context: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_found_and_replaced_in_its_message() {
        let body = [&[0, 1, 81, 128, 1, 2, 3, 4][..], &[2, 9, 9], &[0, 3], b"abc", &[0, 0]].concat();
        let message = [&[4, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat();
        let stream = [&message[..], b"\x14\0\0\x01x"].concat();
        let (first, behind) = super::message(&stream).unwrap();
        assert_eq!((first, behind), (&message[..], &b"\x14\0\0\x01x"[..]));
        let (before, found, after) = ticket(first).unwrap();
        assert_eq!((found, after), (&b"abc"[..], &[0, 0][..]));
        assert_eq!(assemble(before, found, after).unwrap(), message);
        let longer = assemble(before, &[7; 300], after).unwrap();
        assert_eq!((ticket(&longer).unwrap().1, super::message(&longer).unwrap().1.len()), (&[7; 300][..], 0));
        assert!(ticket(behind).is_none());
        for cut in 0..message.len() {
            assert!(super::message(&message[..cut]).is_none());
        }
    }
}
