//! The text protocol of NATS, as much as the comparison needs: core publishing, and JetStream by its requests.
//!
//! <https://docs.nats.io/reference/reference-protocols/nats-protocol>

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Where acknowledgements and answers go.
const INBOX: &str = "_INBOX.answers";

/// A connection that receives.
pub(super) struct Receiver {
    stream: OwnedReadHalf,
    /// Kept open; pings of the server are answered on it.
    writer: OwnedWriteHalf,
    buffer: BytesMut,
}

/// A connection that publishes to one subject.
pub(super) struct Sender {
    writer: OwnedWriteHalf,
    /// `PUB`, the subject and where the acknowledgement goes, if one is asked for.
    command: String,
    buffer: Vec<u8>,
}

async fn connect(server: SocketAddr) -> Result<Receiver> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (stream, writer) = stream.into_split();
    let mut connection = Receiver { stream, writer, buffer: BytesMut::with_capacity(READ) };
    connection.writer.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n").await?;
    while connection.line().await? != "PONG" {}
    Ok(connection)
}

impl Receiver {
    /// Subscribes to a subject.
    pub(super) async fn subscribe(server: SocketAddr, subject: &str) -> Result<Self> {
        let mut connection = connect(server).await?;
        connection.follow(subject).await?;
        Ok(connection)
    }

    /// Receives what a JetStream stream has of a subject, by a consumer that pushes and waits for no acknowledgement.
    pub(super) async fn of_stream(server: SocketAddr, stream: &str, subject: &str) -> Result<Self> {
        // A subject of its own, so that it gets what is pushed to it alone.
        let deliver = format!("deliver.{subject}.{:08x}", fastrand::u32(..));
        let connection = Self::subscribe(server, &deliver).await?;
        let config = serde_json::json!({"stream_name": stream, "config": {
            "deliver_subject": deliver, "ack_policy": "none", "deliver_policy": "all", "filter_subject": subject, "max_deliver": 1,
        }});
        request(server, &format!("$JS.API.CONSUMER.CREATE.{stream}"), &config.to_string()).await?;
        Ok(connection)
    }

    async fn follow(&mut self, subject: &str) -> Result<()> {
        self.writer.write_all(format!("SUB {subject} 1\r\nPING\r\n").as_bytes()).await?;
        while self.line().await? != "PONG" {}
        Ok(())
    }

    /// Waits for messages. Returns how many came.
    pub(super) async fn receive(&mut self) -> Result<u64> {
        loop {
            let mut count = 0;
            while let Some(message) = self.take().await? {
                count += u64::from(message);
            }
            if count > 0 {
                return Ok(count);
            }
            self.read().await?;
        }
    }

    /// Takes one command that has come whole, and says whether it is a message.
    async fn take(&mut self) -> Result<Option<bool>> {
        let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&self.buffer[..end]).context("a line of NATS is no text")?;
        if line.starts_with("MSG ") {
            let size: usize = line.rsplit(' ').next().and_then(|size| size.parse().ok()).context("a message of NATS has no size")?;
            let whole = end + 2 + size + 2;
            if self.buffer.len() < whole {
                return Ok(None);
            }
            self.buffer.advance(whole);
            return Ok(Some(true));
        }
        if line == "PING" {
            self.writer.write_all(b"PONG\r\n").await?;
        } else if line.starts_with("-ERR") {
            bail!("NATS says {line}");
        }
        self.buffer.advance(end + 2);
        Ok(Some(false))
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(line);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.buffer.reserve(READ);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("NATS closed the connection");
        }
        Ok(())
    }
}

impl Sender {
    /// Publishes to a subject. `acknowledged`: JetStream's acknowledgement of each record is asked for, read and dropped.
    pub(super) async fn connect(server: SocketAddr, subject: &str, acknowledged: bool) -> Result<Self> {
        let mut connection = connect(server).await?;
        let inbox = format!("_INBOX.{subject}");
        if acknowledged {
            connection.follow(&inbox).await?;
        }
        let Receiver { mut stream, writer, .. } = connection;
        tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        let command = if acknowledged { format!("PUB {subject} {inbox} ") } else { format!("PUB {subject} ") };
        Ok(Self { writer, command, buffer: Vec::new() })
    }

    pub(super) async fn send(&mut self, records: &[Bytes]) -> Result<()> {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(self.command.as_bytes());
            self.buffer.extend_from_slice(record.len().to_string().as_bytes());
            self.buffer.extend_from_slice(b"\r\n");
            self.buffer.extend_from_slice(record);
            self.buffer.extend_from_slice(b"\r\n");
        }
        Ok(self.writer.write_all(&self.buffer).await?)
    }
}

/// Asks JetStream for something.
pub(super) async fn request(server: SocketAddr, subject: &str, body: &str) -> Result<()> {
    let mut connection = Receiver::subscribe(server, INBOX).await?;
    connection.writer.write_all(format!("PUB {subject} {INBOX} {}\r\n{body}\r\n", body.len()).as_bytes()).await?;
    loop {
        if !connection.line().await?.starts_with("MSG ") {
            continue;
        }
        let answer = connection.line().await?;
        if answer.contains("\"error\"") {
            bail!("JetStream refused {subject}: {answer}");
        }
        return Ok(());
    }
}
