//! The CONNECT stream of an open session.
//!
//! The stream is read for as long as the session lives, so that its end, its reset and a CLOSE_WEBTRANSPORT_SESSION capsule are seen at
//! once (draft-ietf-webtrans-http3, section 6).

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h3::server::RequestStream;
use tokio::time::timeout;

use crate::{
    gate::Gate,
    response::{Answer, Error},
    varint,
};

/// Type of a CLOSE_WEBTRANSPORT_SESSION capsule.
const CLOSE: u64 = 0x2843;
/// Longest reason of a close, in bytes.
const MAX_REASON: usize = 1024;

/// The session's own stream. Dropped before its end, it is reset, and the session ends by that.
pub struct Control {
    down: Answer,
    up: RequestStream<Gate, Bytes>,
    capsules: Capsules,
}

impl Control {
    pub(crate) fn new(down: Answer, up: RequestStream<Gate, Bytes>) -> Self {
        Self { down, up, capsules: Capsules::default() }
    }

    /// Returns when the peer has ended the session, and how it did. Cancel-safe.
    pub async fn ended(&mut self) -> String {
        loop {
            if self.capsules.closed() {
                return "the client closed the session".to_owned();
            }
            match self.up.recv_data().await {
                Ok(Some(piece)) => self.capsules.buffer.put(piece),
                Ok(None) => return "the client ended the session".to_owned(),
                Err(e) => return format!("the session was lost: {e}"),
            }
        }
    }

    /// Ends the stream after the peer has ended the session.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.down.finish().await
    }

    /// Closes the session with a code and a reason. The peer has `limit` to take them, and again to end the session.
    pub async fn close(mut self, limit: Duration, code: u32, reason: &str) -> Result<(), Error> {
        let told = async {
            self.down.data(close(code, reason)).await?;
            self.down.finish().await
        };
        // Where the peer takes nothing, dropping the stream resets it.
        let Ok(told) = timeout(limit, told).await else { return Ok(()) };
        told?;
        // To give up reading would overtake the capsule, and Chromium then takes the session for lost.
        let _ = timeout(limit, self.ended()).await;
        Ok(())
    }
}

/// The peer's capsules, as far as they were read.
#[derive(Default)]
struct Capsules {
    buffer: BytesMut,
    /// Bytes left of a capsule of another type, which is skipped (RFC 9297, section 3.2).
    skip: u64,
}

impl Capsules {
    /// Reads what is in the buffer. Returns whether the peer closed the session.
    fn closed(&mut self) -> bool {
        loop {
            let skipped = self.buffer.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.buffer.advance(skipped);
            self.skip -= skipped as u64;
            if self.skip > 0 {
                return false;
            }
            let Some((kind, a)) = varint::peek(&self.buffer, 0) else { return false };
            let Some((length, b)) = varint::peek(&self.buffer, a) else { return false };
            if kind == CLOSE {
                return true;
            }
            self.buffer.advance(a + b);
            self.skip = length;
        }
    }
}

/// The capsule that closes a session.
fn close(code: u32, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut capsule = BytesMut::new();
    varint::put(CLOSE, &mut capsule);
    varint::put(4 + reason.len() as u64, &mut capsule);
    capsule.put_u32(code);
    capsule.put_slice(reason.as_bytes());
    capsule.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_carries_its_code_and_as_much_of_its_reason_as_fits() {
        assert_eq!(close(4401, "no"), &b"\x68\x43\x06\x00\x00\x11\x31no"[..]);
        let long = close(0, &"é".repeat(1000));
        assert_eq!(long.len(), 2 + 2 + 4 + MAX_REASON);
    }

    #[test]
    fn a_close_is_seen_behind_other_capsules_however_the_bytes_come() {
        let mut bytes = BytesMut::from(&b"\x02\x05hello\x03\x00"[..]);
        bytes.extend_from_slice(&close(1, "bye"));
        let mut capsules = Capsules::default();
        let closed = bytes.iter().position(|&byte| {
            capsules.buffer.put_u8(byte);
            capsules.closed()
        });
        // The type has two bytes and the length one.
        assert_eq!(closed, Some(9 + 2));
        assert!(capsules.buffer.len() <= 3, "nothing of the others is kept");
    }
}
