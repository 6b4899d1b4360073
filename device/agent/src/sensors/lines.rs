//! Lines: a JSON object each, as they come.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::Sink;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Sends every line until the input ends.
pub(super) async fn run(mut input: impl AsyncRead + Unpin, sink: &Sink) {
    let mut lines = Lines::new(sink.max_record);
    let mut chunk = BytesMut::with_capacity(CHUNK);
    loop {
        match input.read_buf(&mut chunk).await {
            Ok(0) => break,
            Ok(_) => {
                lines.feed(&chunk);
                chunk.clear();
            }
            Err(error) => {
                sink.bad(&error.to_string());
                break;
            }
        }
        drain(&mut lines, sink).await;
    }
    lines.feed(b"\n");
    drain(&mut lines, sink).await;
}

async fn drain(lines: &mut Lines, sink: &Sink) {
    while let Some(line) = lines.next() {
        match line {
            Line::Whole(line) => drop(sink.put(line).await),
            Line::TooLong => sink.bad("a line is too long"),
        }
    }
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Bytes),
    /// Longer than the limit: skipped.
    TooLong,
}

/// Cuts bytes into lines; never holds more than one line over the limit, and what was fed since.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: BytesMut,
    limit: usize,
    skipping: bool,
    /// Bytes of finished lines, their ends included.
    consumed: u64,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit, skipping: false, consumed: 0 }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of the lines that [`Lines::next`] has given or skipped whole.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// The next line; empty ones are left out.
    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') else {
                if self.buffer.len() > self.limit {
                    self.consumed += self.buffer.len() as u64;
                    self.buffer.clear();
                    if !std::mem::replace(&mut self.skipping, true) {
                        return Some(Line::TooLong);
                    }
                }
                return None;
            };
            let line = self.buffer.split_to(end + 1);
            self.consumed += line.len() as u64;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = line.freeze().slice(..end);
            if line.len() > self.limit {
                return Some(Line::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Some(Line::Whole(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(limit: usize, parts: &[&str]) -> (Vec<String>, u64) {
        let mut lines = Lines::new(limit);
        let mut cut = Vec::new();
        for part in parts {
            lines.feed(part.as_bytes());
            while let Some(line) = lines.next() {
                cut.push(match line {
                    Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                    Line::TooLong => "too long".into(),
                });
            }
        }
        (cut, lines.consumed())
    }

    #[test]
    fn lines_are_cut_wherever_the_parts_end() {
        assert_eq!(cut(9, &["a", "b\n\n", "c\r\nd"]), (vec!["ab".into(), "c\r".into()], 7));
    }

    #[test]
    fn a_long_line_is_skipped_once_and_whole() {
        let (lines, consumed) = cut(3, &["abcd", "efgh", "ij\nx\n", "abcde\ny\n"]);
        assert_eq!((lines, consumed), (vec!["too long".into(), "x".into(), "too long".into(), "y".into()], 21));
    }
}
