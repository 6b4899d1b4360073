//! A body cut into lines, however it comes in pieces. No more than a line is kept.

use bytes::{Bytes, BytesMut};
use motience_proto::model::record::without_mark;

/// Cuts pieces into lines.
#[derive(Debug)]
pub(super) struct Lines {
    limit: usize,
    /// Bytes that have come since the last line that was given out.
    piece: Bytes,
    /// The beginning of a line whose end is in a later piece.
    begun: BytesMut,
    /// A line over the limit is being passed over.
    passing: bool,
    number: u64,
}

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Its number, from 1; blank lines count.
    pub(super) number: u64,
    /// The line without its end; `None` where it is over the limit.
    pub(super) text: Option<Bytes>,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, piece: Bytes::new(), begun: BytesMut::new(), passing: false, number: 0 }
    }

    /// Takes the next piece. The lines of the last one must be out.
    pub(super) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "the last piece is cut first");
        self.piece = piece;
    }

    /// The next line that has come to its end. A slice of its piece, unless it began in another.
    pub(super) fn next(&mut self) -> Option<Line> {
        while let Some(end) = self.piece.iter().position(|&byte| byte == b'\n') {
            let tail = self.piece.split_to(end + 1);
            if let Some(line) = self.line(tail.slice(..end)) {
                return Some(line);
            }
        }
        let rest = std::mem::take(&mut self.piece);
        if !self.passing {
            self.begun.extend_from_slice(&rest);
            // One more, as it may be the first half of the line's end.
            if self.begun.len() > self.limit + 1 {
                self.passing = true;
                self.begun = BytesMut::new();
            }
        }
        None
    }

    /// The last line, which may lack its end.
    pub(super) fn finish(mut self) -> Option<Line> {
        self.line(Bytes::new())
    }

    fn line(&mut self, tail: Bytes) -> Option<Line> {
        self.number += 1;
        let number = self.number;
        if std::mem::take(&mut self.passing) {
            return Some(Line { number, text: None });
        }
        let whole = if self.begun.is_empty() {
            tail
        } else {
            self.begun.extend_from_slice(&tail);
            self.begun.split().freeze()
        };
        if whole.strip_suffix(b"\r").unwrap_or(&whole).len() > self.limit {
            return Some(Line { number, text: None });
        }
        let whole = without_mark(whole);
        let text = whole.slice_ref(whole.trim_ascii());
        (!text.is_empty()).then_some(Line { number, text: Some(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]], limit: usize) -> Vec<(u64, Option<String>)> {
        let mut lines = Lines::new(limit);
        let mut found = Vec::new();
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next() {
                found.push(line);
            }
            assert!(lines.begun.len() <= limit + 1, "no more than a line is kept");
        }
        found.extend(lines.finish());
        found.into_iter().map(|line| (line.number, line.text.map(|text| String::from_utf8(text.to_vec()).unwrap()))).collect()
    }

    fn line(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn lines_end_in_several_ways() {
        assert_eq!(cut(&[b"a\nb\r\n\n \r\nc"], 9), [line(1, "a"), line(2, "b"), line(5, "c")]);
        assert_eq!(cut(&[b"a", b"b\r", b"\nc\n"], 9), [line(1, "ab"), line(2, "c")]);
        assert!(cut(&[b"", b"\n\r\n", b""], 9).is_empty());
        assert_eq!(cut(&[b"\xef\xbb\xbfa\n\xef\xbb\xbf\n\xef\xbb", b"\xbfb"], 9), [line(1, "a"), line(3, "b")]);
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over() {
        assert_eq!(cut(&[b"123\n1234\n123\r\n12345"], 3), [line(1, "123"), (2, None), line(3, "123"), (4, None)]);
        assert_eq!(cut(&[b"12", b"34", b"56\n7"], 3), [(1, None), line(2, "7")]);
    }

    #[test]
    fn pieces_make_no_difference() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..5000 {
            let text: Vec<u8> = (0..random.usize(0..40)).map(|_| b"ab\r\n"[random.usize(0..4)]).collect();
            let mut cuts: Vec<usize> = (0..random.usize(0..6)).map(|_| random.usize(0..=text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            let limit = random.usize(1..6);
            assert_eq!(cut(&pieces, limit), cut(&[&text], limit), "{:?} {cuts:?} {limit}", String::from_utf8_lossy(&text));
        }
    }
}
