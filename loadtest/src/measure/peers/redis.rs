//! Redis's protocol (RESP2), as much as the comparison needs: `PUBLISH` and `SUBSCRIBE`, `XADD` and `XREAD`.
//!
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedWriteHalf},
};

use crate::common::redis::{put, put_word};

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Records that one `XREAD` takes.
const ENTRIES: &str = "1000";

/// A connection that appends or publishes.
pub(super) struct Sender {
    writer: OwnedWriteHalf,
    /// The command up to the record.
    command: Vec<u8>,
    buffer: Vec<u8>,
}

/// How records pass through Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Publish,
    Stream,
}

impl Sender {
    pub(super) async fn connect(server: SocketAddr, topic: &str, mode: Mode) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (mut reader, writer) = stream.into_split();
        // Answers are read and dropped: the consumer tells what arrived.
        tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        let mut command = Vec::new();
        match mode {
            Mode::Publish => put(&mut command, 3, &["PUBLISH", topic]),
            Mode::Stream => put(&mut command, 5, &["XADD", topic, "*", "r"]),
        }
        Ok(Self { writer, command, buffer: Vec::new() })
    }

    pub(super) async fn send(&mut self, records: &[Bytes]) -> Result<()> {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(&self.command);
            put_word(&mut self.buffer, record);
        }
        Ok(self.writer.write_all(&self.buffer).await?)
    }
}

/// A connection that receives.
pub(super) struct Receiver {
    stream: TcpStream,
    buffer: BytesMut,
    mode: Mode,
    topic: String,
    /// The last entry that was read of a stream.
    last: String,
}

impl Receiver {
    pub(super) async fn connect(server: SocketAddr, topic: &str, mode: Mode) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let mut receiver = Self { stream, buffer: BytesMut::with_capacity(READ), mode, topic: topic.to_owned(), last: "0".to_owned() };
        if mode == Mode::Publish {
            let mut command = Vec::new();
            put(&mut command, 2, &["SUBSCRIBE", topic]);
            receiver.stream.write_all(&command).await?;
            receiver.value().await?;
        }
        Ok(receiver)
    }

    /// Waits for records. Returns how many came.
    pub(super) async fn receive(&mut self) -> Result<u64> {
        match self.mode {
            Mode::Publish => self.published().await,
            Mode::Stream => self.appended().await,
        }
    }

    async fn published(&mut self) -> Result<u64> {
        self.value().await?;
        let mut count = 1;
        while let Some((_, used)) = Value::parse(&self.buffer)? {
            self.buffer.advance(used);
            count += 1;
        }
        Ok(count)
    }

    async fn appended(&mut self) -> Result<u64> {
        let mut command = Vec::new();
        put(&mut command, 8, &["XREAD", "COUNT", ENTRIES, "BLOCK", "0", "STREAMS", &self.topic, &self.last]);
        self.stream.write_all(&command).await?;
        // [[key, [[id, [field, value]], ...]]]
        let answer = self.value().await?;
        let entries = answer.at(0).and_then(|stream| stream.at(1)).and_then(Value::items).context("an unknown answer to XREAD")?;
        let last = entries.last().and_then(|entry| entry.at(0)).and_then(Value::text).context("an entry without an id")?;
        let (last, count) = (last.to_owned(), entries.len() as u64);
        self.last = last;
        Ok(count)
    }

    async fn value(&mut self) -> Result<Value> {
        loop {
            if let Some((value, used)) = Value::parse(&self.buffer)? {
                self.buffer.advance(used);
                return Ok(value);
            }
            self.buffer.reserve(READ);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("Redis closed the connection");
            }
        }
    }
}

/// Sends one command and waits for its answer.
pub(super) async fn command(server: SocketAddr, words: &[&str]) -> Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    let mut text = Vec::new();
    put(&mut text, words.len(), words);
    stream.write_all(&text).await?;
    stream.read_u8().await?;
    Ok(())
}

/// An answer. Of numbers and of records only their presence matters.
#[derive(Debug, PartialEq)]
enum Value {
    Text(String),
    Items(Vec<Self>),
    Other,
}

impl Value {
    /// Reads a value and how many bytes it takes; `None` where it has not come whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[..end]).context("a line of Redis is no text")?;
        let (kind, rest) = line.split_at_checked(1).context("an empty line of Redis")?;
        let mut used = end + 2;
        let value = match kind {
            "-" => bail!("Redis says {rest}"),
            "$" if rest.starts_with('-') => Self::Other,
            "$" => {
                let size: usize = rest.parse().context("a string of Redis has no size")?;
                let Some(text) = bytes.get(used..used + size + 2) else { return Ok(None) };
                used += size + 2;
                Self::Text(String::from_utf8_lossy(&text[..size]).into_owned())
            }
            "*" => {
                let count = rest.parse().unwrap_or(0_usize);
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    let Some((item, size)) = Self::parse(&bytes[used..])? else { return Ok(None) };
                    items.push(item);
                    used += size;
                }
                Self::Items(items)
            }
            _ => Self::Other,
        };
        Ok(Some((value, used)))
    }

    fn items(&self) -> Option<&[Self]> {
        if let Self::Items(items) = self { Some(items) } else { None }
    }

    fn at(&self, index: usize) -> Option<&Self> {
        self.items()?.get(index)
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let whole = b"*1\r\n*2\r\n$3\r\nkey\r\n*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nr\r\n$2\r\n{}\r\n:7\r\n";
        let end = whole.len() - 4;
        for cut in 0..end {
            assert_eq!(Value::parse(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let (value, used) = Value::parse(whole).unwrap().unwrap();
        assert_eq!(used, end);
        let entries = value.at(0).and_then(|stream| stream.at(1)).unwrap();
        assert_eq!(entries.at(0).and_then(|entry| entry.at(0)).and_then(Value::text), Some("1-0"));
        assert!(Value::parse(b"-ERR no\r\n").is_err());
    }
}
