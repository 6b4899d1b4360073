//! What a stream of the peer is for: its first numbers say it (RFC 9114, section 6; draft-ietf-webtrans-http3, section 4).

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use h3::error::Code;
use motience_proto::wire::varint;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::timeout;

use super::{
    gate::Gate,
    sessions::{SESSION_BIDI, SESSION_UNI},
};

/// Longest frame on a control stream, in bytes: SETTINGS are the longest that mean anything.
const CONTROL_FRAME: usize = 4 * 1024;

/// Control stream, and the two of QPACK.
const CONTROL: u64 = 0x0;
const QPACK: [u64; 2] = [0x2, 0x3];

/// An opened stream.
pub(super) enum Opened {
    /// A request, with what was read of it.
    Request(SendStream, RecvStream, BytesMut),
    /// A bidirectional stream of the session with this number.
    SessionBidi(u64, SendStream, RecvStream, BytesMut),
    /// A unidirectional one.
    SessionUni(u64, RecvStream, BytesMut),
    /// A stream that h3 reads.
    Control(Gate),
    /// It ended, or said nothing in time, or nothing that means something here.
    Nothing,
}

/// Reads the beginning of a bidirectional stream.
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
        Ok(Some(Some(session))) => Opened::SessionBidi(session, send, recv, buffer),
        // What ended too early is h3's to refuse.
        Ok(Some(None) | None) => Opened::Request(send, recv, buffer),
        Err(_) => {
            reject(send, recv, Code::H3_REQUEST_REJECTED);
            Opened::Nothing
        }
    }
}

/// Reads the beginning of a unidirectional stream; `head`: longest head of a request.
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
        Ok(Some((_, Some(session)))) => Opened::SessionUni(session, recv, buffer),
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

/// The number that begins at `at`, and its size. Bytes are left in the buffer.
async fn number(recv: &mut RecvStream, buffer: &mut BytesMut, at: usize) -> Option<(u64, usize)> {
    loop {
        if let Some(found) = varint::peek(buffer, at) {
            return Some(found);
        }
        // No more than the longest number takes: what follows is read by whom it is for.
        let chunk = recv.read_chunk(8, true).await.ok()??;
        buffer.extend_from_slice(&chunk.bytes);
    }
}
