//! HTTP/2 as it passes by: the heads of its frames (RFC 9113, section 4.1), read in both directions to tell frames that carry
//! something from those that only cost.

use super::{Ration, ration::Flooded};

/// How an HTTP/2 client begins (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GOAWAY with ENHANCE_YOUR_CALM, after any number of streams.
pub(super) const ENOUGH: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0xB];

const HEAD: usize = 9;
/// A padded DATA frame up to this length may be nothing but padding.
const PADDING: u32 = 257;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const CONTINUATION: u8 = 9;
}
mod flag {
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const PADDED: u8 = 8;
}

/// Frames that a client may answer each DATA frame of ours with: the windows of the stream and of the connection.
const ANSWERS: u32 = 2;

/// Both directions of one connection.
pub(super) struct Frames {
    ration: Ration,
    up: Heads,
    down: Heads,
}

impl Frames {
    pub(super) fn new(ration: Ration) -> Self {
        Self { ration, up: Heads::default(), down: Heads::default() }
    }

    /// Bytes of the client, after its preface.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Flooded> {
        let ration = &mut self.ration;
        self.up.pass(bytes, |head| if head.carries_nothing() { ration.spend() } else { Ok(()) })
    }

    /// Bytes of ours.
    pub(super) fn written(&mut self, bytes: &[u8]) {
        let ration = &mut self.ration;
        let earn = |head: Head| {
            if head.kind == kind::DATA {
                ration.earn(ANSWERS);
            }
            Ok(())
        };
        // Cannot fail: what we send is not rationed.
        let _ = self.down.pass(bytes, earn);
    }

    /// Whether a frame could be written now, without breaking into another.
    pub(super) fn is_between_frames(&self) -> bool {
        self.down.have == 0 && self.down.skip == 0
    }
}

#[derive(Clone, Copy)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
}

impl Head {
    /// HEADERS begin requests, which have limits of their own, and h2 limits their continuations.
    fn carries_nothing(self) -> bool {
        match self.kind {
            kind::DATA if self.flags & flag::END_STREAM != 0 => false,
            kind::DATA => self.length == 0 || (self.flags & flag::PADDED != 0 && self.length <= PADDING),
            kind::HEADERS | kind::CONTINUATION => false,
            _ => true,
        }
    }
}

/// One direction.
#[derive(Default)]
struct Heads {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    skip: u32,
}

impl Heads {
    /// Passes over bytes, and shows each head that is whole.
    fn pass(&mut self, mut bytes: &[u8], mut show: impl FnMut(Head) -> Result<(), Flooded>) -> Result<(), Flooded> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes.len().min(self.skip as usize);
                self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(HEAD - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let [a, b, c, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                (self.have, self.skip) = (0, length);
                show(Head { length, kind, flags })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Whether ten thousand such frames are more than a peer may send, however they are cut.
    fn floods(kind: u8, flags: u8, payload: &[u8]) -> bool {
        let bytes = frame(kind, flags, payload).repeat(10_000);
        let by = |step: usize| {
            let mut frames = Frames::new(Ration::new(100));
            bytes.chunks(step).any(|chunk| frames.read(chunk).is_err())
        };
        let outcomes = [1, 7, 4096].map(by);
        assert!(outcomes.iter().all(|&outcome| outcome == outcomes[0]), "{outcomes:?}");
        outcomes[0]
    }

    #[tokio::test]
    async fn only_frames_that_carry_nothing_are_counted() {
        for (what, kind, flags, payload, counted) in [
            ("a ping", 6, 0, &[0; 8][..], true),
            ("its answer", 6, 1, &[0; 8], true),
            ("settings", 4, 0, &[], true),
            ("a reset", 3, 0, &[0; 4], true),
            ("a window", 8, 0, &[0; 4], true),
            ("a priority", 2, 0, &[0; 5], true),
            ("an unknown kind", 0xBB, 0, &[0; 100], true),
            ("no data", 0, 0, &[], true),
            ("padding", 0, 8, &[9, 0, 0], true),
            ("the end of a body", 0, 1, &[], false),
            ("data", 0, 0, &[7; 50], false),
            ("a request", 1, 5, &[0x82], false),
        ] {
            assert_eq!(floods(kind, flags, payload), counted, "{what}");
        }
    }

    #[tokio::test]
    async fn windows_are_free_for_whoever_reads() {
        let mut frames = Frames::new(Ration::new(1));
        for _ in 0..10_000 {
            frames.written(&frame(0, 0, &[7; 100]));
            assert!(frames.is_between_frames());
            frames.read(&frame(8, 0, &[0; 4]).repeat(2)).unwrap();
        }
        frames.written(&[0, 0]);
        assert!(!frames.is_between_frames());
    }
}
