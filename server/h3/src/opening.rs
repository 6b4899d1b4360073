//! Classifies a stream of the peer by its first numbers (RFC 9114, section 6; draft-ietf-webtrans-http3, section 4).

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use h3::error::Code;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use crate::{
    gate::Gate,
    sessions::{Incoming, SESSION_BIDI, SESSION_UNI},
    varint,
};

/// Longest frame that is kept of a control stream, in bytes. No frame that means anything there is longer than SETTINGS.
const CONTROL_FRAME: usize = 4 * 1024;

/// Type of a control stream.
const CONTROL: u64 = 0x0;
/// Types of QPACK's streams.
const QPACK: [u64; 2] = [0x2, 0x3];

/// A classified stream.
pub(super) enum Opened {
    /// A request, with the bytes that were read of it.
    Request(SendStream, RecvStream, BytesMut),
    /// A stream of the session with this number.
    Session(u64, Incoming),
    /// A stream that `h3` reads.
    Control(Gate),
    /// A stream that ended, was silent for too long, or has an unknown type.
    Nothing,
}

/// Reads the first numbers of a bidirectional stream within `limit`.
pub(super) async fn bidirectional(send: SendStream, mut recv: RecvStream, limit: Duration) -> Opened {
    let mut buffer = BytesMut::new();
    let session = async {
        let kind = number(&mut recv, &mut buffer, 0).await?;
        if kind.0 != SESSION_BIDI {
            return Some(None);
        }
        let session = number(&mut recv, &mut buffer, kind.1).await?;
        buffer.advance(kind.1 + session.1);
        Some(Some(session.0))
    };
    match timeout(limit, session).await {
        Ok(Some(Some(session))) => Opened::Session(session, Incoming::Bidi(send, recv, buffer)),
        // `h3` refuses a stream that ended too early.
        Ok(Some(None) | None) => Opened::Request(send, recv, buffer),
        Err(_) => {
            reject(send, recv, Code::H3_REQUEST_REJECTED);
            Opened::Nothing
        }
    }
}

/// Reads the first numbers of a unidirectional stream within `limit`.
pub(super) async fn unidirectional(mut recv: RecvStream, limit: Duration) -> Opened {
    let mut buffer = BytesMut::new();
    let kind = async {
        let kind = number(&mut recv, &mut buffer, 0).await?;
        if kind.0 != SESSION_UNI {
            return Some((kind, None));
        }
        let session = number(&mut recv, &mut buffer, kind.1).await?;
        buffer.advance(kind.1 + session.1);
        Some((kind, Some(session.0)))
    };
    match timeout(limit, kind).await {
        Ok(Some((_, Some(session)))) => Opened::Session(session, Incoming::Uni(recv, buffer)),
        Ok(Some(((CONTROL, size), _))) => Opened::Control(Gate::typed(recv, buffer, size, CONTROL_FRAME)),
        Ok(Some(((kind, _), _))) if QPACK.contains(&kind) => Opened::Control(Gate::raw(recv, buffer)),
        _ => {
            let _ = recv.stop(code(Code::H3_STREAM_CREATION_ERROR));
            Opened::Nothing
        }
    }
}

/// Ends both halves of a stream that nothing was done with.
pub(super) fn reject(mut send: SendStream, mut recv: RecvStream, why: Code) {
    // An error says that the half has ended already.
    let _ = send.reset(code(why));
    let _ = recv.stop(code(why));
}

pub(super) fn code(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

/// Reads the number at `at`, and its size, into the buffer without consuming it.
async fn number(recv: &mut RecvStream, buffer: &mut BytesMut, at: usize) -> Option<(u64, usize)> {
    loop {
        if let Some(found) = varint::peek(buffer, at) {
            return Some(found);
        }
        // At most the bytes of the longest number, because whoever owns the stream reads the rest.
        let chunk = recv.read_chunk(8, true).await.ok()??;
        buffer.extend_from_slice(&chunk.bytes);
    }
}
