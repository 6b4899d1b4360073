//! The bytes of a WebSocket before tungstenite sees them: the heads of frames (RFC 6455, section 5.2) are read as they pass by, because
//! it answers pings and joins fragments by itself, and tells nobody how many there were.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use motience_http::{Flooded, Ration};
use motience_limits::uploads::{Part, Upload};
use motience_proto::model::UserId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A fragment shorter than this carries nothing worth a frame.
const SMALL: u64 = 64;
/// Bytes of a flood that are read and thrown away while the peer may read why its connection ends: unread, they would turn the close
/// into a reset.
const THROWN: usize = 256 * 1024;
/// Longest head: two bytes, a length of eight, a mask of four.
const HEAD: usize = 14;

/// An upgraded connection whose peer may send so many frames that carry nothing, and whose messages have so much room while they come.
pub(crate) struct FrameGuard {
    inner: TokioIo<Upgraded>,
    heads: Heads,
    ration: Ration,
    upload: Upload,
    /// Of the message that is being put together.
    room: Part,
    message: Message,
    /// Bytes that are thrown away, once the peer has sent too much.
    throwing: Option<usize>,
}

impl FrameGuard {
    pub(crate) fn new(upgraded: Upgraded, ration: Ration, upload: Upload) -> Self {
        let (room, message) = (upload.part(), Message::default());
        Self { inner: TokioIo::new(upgraded), heads: Heads::default(), ration, upload, room, message, throwing: None }
    }

    /// Counts its messages as this account's from now on.
    pub(crate) fn is_of(&self, user: UserId) {
        self.upload.is_of(user);
    }

    /// Counts a message that carries nothing.
    pub(crate) fn spend(&mut self) -> Result<(), Flooded> {
        let spent = self.ration.spend();
        if spent.is_err() {
            self.throw_away();
        }
        spent
    }

    /// Nothing that still comes is read as WebSocket.
    fn throw_away(&mut self) {
        self.throwing.get_or_insert(THROWN);
    }
}

impl AsyncRead for FrameGuard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(left) = &mut this.throwing {
            let mut thrown = [0; 4096];
            while *left > 0 {
                let mut buffer = ReadBuf::new(&mut thrown);
                ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                *left = left.saturating_sub(buffer.filled().len());
            }
            // Whoever reads has a limit of time: a peer that sends on is stopped by its window.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        let (ration, message) = (&mut this.ration, &mut this.message);
        let passed = this.heads.pass(&buffer.filled()[before..], |head| {
            message.take(head);
            if head.carries_nothing() { ration.spend() } else { Ok(()) }
        });
        let held = this.message.held(this.heads.skip == 0);
        let refused = passed.map_err(io::Error::other).and_then(|()| this.room.set(held).map_err(io::Error::other));
        if let Err(refused) = refused {
            buffer.set_filled(before);
            this.throw_away();
            return Poll::Ready(Err(refused));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameGuard {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[derive(Clone, Copy)]
struct Head {
    opcode: u8,
    is_final: bool,
    length: u64,
}

impl Head {
    fn carries_nothing(self) -> bool {
        let is_control = self.opcode & 8 != 0;
        let is_fragment = !self.is_final || self.opcode == 0;
        is_control || self.length == 0 || (is_fragment && self.length < SMALL)
    }
}

/// The message whose frames come.
#[derive(Default)]
struct Message {
    /// Bytes that its frames say they have.
    length: u64,
    /// Whether its last frame has begun.
    is_last: bool,
}

impl Message {
    fn take(&mut self, head: Head) {
        // Control frames come between, and are short.
        if head.opcode & 8 == 0 {
            if self.is_last {
                *self = Self::default();
            }
            self.length = self.length.saturating_add(head.length);
            self.is_last = head.is_final;
        }
    }

    /// Bytes that are kept of it. `ended`: whether its last frame has come to its end, if that has begun.
    fn held(&self, ended: bool) -> usize {
        if self.is_last && ended { 0 } else { usize::try_from(self.length).unwrap_or(usize::MAX) }
    }
}

/// Where in the frames of a peer the next byte stands.
#[derive(Default)]
struct Heads {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    skip: u64,
}

impl Heads {
    /// Passes over bytes, and shows each head that is whole.
    fn pass(&mut self, mut bytes: &[u8], mut show: impl FnMut(Head) -> Result<(), Flooded>) -> Result<(), Flooded> {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.have] = first;
            self.have += 1;
            bytes = rest;
            if let Some(head) = self.whole() {
                (self.have, self.skip) = (0, head.length);
                show(head)?;
            }
        }
        Ok(())
    }

    /// The head, once all of it has come.
    fn whole(&self) -> Option<Head> {
        let head = &self.head[..self.have];
        let (&flags, &lengths) = (head.first()?, head.get(1)?);
        let wide = match lengths & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if lengths & 0x80 == 0 { 0 } else { 4 };
        if head.len() < 2 + wide + mask {
            return None;
        }
        let length = match wide {
            0 => u64::from(lengths & 0x7F),
            _ => head[2..2 + wide].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        Some(Head { opcode: flags & 0xF, is_final: flags & 0x80 != 0, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINAL: u8 = 0x80;

    fn frame(flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![flags];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65_536 => frame.extend([&[0x80 | 126][..], &(payload as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[0x80 | 127][..], &(payload as u64).to_be_bytes()].concat()),
        }
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, 0x89);
        frame
    }

    #[test]
    fn only_frames_that_carry_nothing_are_counted() {
        for (flags, payload, counted) in [
            (FINAL | 9, 0, true),
            (FINAL | 10, 125, true),
            (FINAL | 1, 0, true),
            (FINAL | 1, 1, false),
            (FINAL | 2, 70_000, false),
            (1, 63, true),
            (0, 0, true),
            (FINAL, 63, true),
            (0, 64, false),
            (FINAL, 126, false),
        ] {
            let bytes = frame(flags, payload).repeat(7);
            for step in [1, 3, 4096] {
                let (mut heads, mut shown) = (Heads::default(), Vec::new());
                for chunk in bytes.chunks(step) {
                    let show = |head: Head| {
                        shown.push((head.length, head.carries_nothing()));
                        Ok(())
                    };
                    heads.pass(chunk, show).unwrap();
                }
                assert_eq!(shown, vec![(payload as u64, counted); 7], "{flags:#x} {payload} by {step}");
            }
        }
    }
}
