//! A connection's socket with its limits: the permit it holds for as long as it is open, the time that its peer has to take what is
//! written, and, over HTTP/2, the ration of frames that carry nothing.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    Ration,
    frames::{ENOUGH, Frames, PREFACE},
    limiter::Permit,
    ration::{Flooded, count_ended},
};

/// How long a peer that floods is left to read why its connection ends.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of its flood that are read and thrown away meanwhile: unread bytes would turn the close into a reset.
const LINGER_BYTES: usize = 256 * 1024;

/// A socket. Whatever it becomes by an upgrade keeps the permit.
pub(super) struct Guarded<S> {
    inner: S,
    _permit: Permit,
    write_limit: Duration,
    /// Runs while nothing more can be written.
    blocked: Option<Pin<Box<Sleep>>>,
    control_frames: u32,
    version: Version,
}

/// Version of HTTP that the peer speaks.
enum Version {
    /// So many bytes of HTTP/2's preface have come.
    Unknown(usize),
    One,
    Two(Box<Frames>),
    Ending(Box<Linger>),
}

struct Linger {
    over: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// `control_frames`: frames that carry nothing, for each second.
    pub(super) fn new(inner: S, permit: Permit, write_limit: Duration, control_frames: u32) -> Self {
        Self { inner, _permit: permit, write_limit, blocked: None, control_frames, version: Version::Unknown(0) }
    }

    /// Looks at what the peer sent.
    fn look(&mut self, mut bytes: &[u8]) -> Result<(), Flooded> {
        if let Version::Unknown(have) = &mut self.version {
            let wanted = &PREFACE[*have..];
            let shared = wanted.len().min(bytes.len());
            if wanted[..shared] != bytes[..shared] {
                self.version = Version::One;
            } else if shared < wanted.len() {
                *have += shared;
            } else {
                self.version = Version::Two(Box::new(Frames::new(Ration::new(self.control_frames))));
            }
            bytes = &bytes[shared..];
        }
        match &mut self.version {
            Version::Two(frames) => frames.read(bytes),
            _ => Ok(()),
        }
    }

    /// The peer is told why, if it takes that at once, and has a moment to read it.
    fn end(&mut self, cx: &mut Context<'_>) {
        count_ended("control_flood");
        if let Version::Two(frames) = &self.version
            && frames.is_between_frames()
            && Pin::new(&mut self.inner).poll_write(cx, &ENOUGH).is_ready()
        {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        self.version = Version::Ending(Box::new(Linger { over: Box::pin(sleep(LINGER)), bytes: LINGER_BYTES }));
    }

    /// Nothing that a peer writes for too long without taking anything is waited for.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let limit = self.write_limit;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(blocked.as_mut().poll(cx));
        count_ended("stalled");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing (HTTP_WRITE_LIMIT)")))
    }
}

impl Linger {
    /// Throws away what comes; ready when that has lasted long enough.
    fn poll(&mut self, cx: &mut Context<'_>, inner: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
        let mut thrown = [0; 4096];
        while self.bytes > 0 {
            let mut buffer = ReadBuf::new(&mut thrown);
            match pin!(&mut *inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.bytes = self.bytes.saturating_sub(buffer.filled().len()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.over.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if !matches!(this.version, Version::Ending(_)) {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
            if this.look(&buffer.filled()[before..]).is_ok() {
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
            this.end(cx);
        }
        let Version::Ending(linger) = &mut this.version else { return Poll::Ready(Ok(())) };
        ready!(linger.poll(cx, &mut this.inner));
        Poll::Ready(Err(io::Error::other(Flooded)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if matches!(this.version, Version::Ending(_)) {
            // The last word was said, and the connection goes on only for it to be read.
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        let written = match parts {
            [part] => Pin::new(&mut this.inner).poll_write(cx, part),
            parts => Pin::new(&mut this.inner).poll_write_vectored(cx, parts),
        };
        if let (Poll::Ready(Ok(count)), Version::Two(frames)) = (&written, &mut this.version) {
            let mut left = *count;
            for part in parts {
                let part = &part[..left.min(part.len())];
                frames.written(part);
                left -= part.len();
            }
        }
        this.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.in_time(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.in_time(cx, shut)
    }
}
