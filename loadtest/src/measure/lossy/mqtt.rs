//! MQTT 3.1.1 as much as the comparison needs: a publisher with QoS 1 that never waits for acknowledgements, and a
//! subscriber. Small on purpose: what it does is what is measured.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const QOS_1: u8 = 0x02;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// Bytes of a packet at most: far more than a record.
const MAX_PACKET: usize = 1 << 20;

/// A connected client.
pub(super) struct Client<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
}

/// The half that publishes.
pub(super) struct Publisher<S> {
    writer: WriteHalf<S>,
    topic: String,
    next: u16,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Client<S> {
    pub(super) async fn connect(stream: S, name: &str) -> Result<Self> {
        let (reader, writer) = tokio::io::split(stream);
        let mut client = Self { reader, writer };
        let mut body = text("MQTT");
        // Level 4 (3.1.1), a clean session, keep-alive once a minute.
        body.extend([4, 0x02, 0, 60]);
        body.extend(text(name));
        client.writer.write_all(&packet(CONNECT, &body)).await?;
        let (kind, body) = client.read().await?;
        if kind != CONNACK || body.get(1) != Some(&0) {
            bail!("the broker refused the connection: {body:?}");
        }
        Ok(client)
    }

    /// Subscribes with QoS 1.
    pub(super) async fn subscribe(&mut self, topic: &str) -> Result<()> {
        let mut body = vec![0, 1];
        body.extend(text(topic));
        body.push(1);
        self.writer.write_all(&packet(SUBSCRIBE, &body)).await?;
        match self.read().await? {
            (SUBACK, body) if body.last() != Some(&0x80) => Ok(()),
            _ => bail!("the broker refused the subscription"),
        }
    }

    /// The payload of the next message, which is acknowledged.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            let (kind, mut body) = self.read().await?;
            if kind & 0xf0 != PUBLISH {
                continue;
            }
            let mut at = 2 + usize::from(u16::from_be_bytes([*body.first().context("empty")?, *body.get(1).context("short")?]));
            if kind & 0x06 != 0 {
                let id = body.get(at..at + 2).context("no packet id")?.to_vec();
                self.writer.write_all(&packet(PUBACK, &id)).await?;
                at += 2;
            }
            return Ok(body.split_off(at.min(body.len())));
        }
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        read(&mut self.reader).await
    }

    /// A publisher. Acknowledgements are read and dropped: what counts is what the consumer sees.
    pub(super) fn publisher(self, topic: &str) -> Publisher<S> {
        let mut reader = self.reader;
        tokio::spawn(async move { while read(&mut reader).await.is_ok() {} });
        Publisher { writer: self.writer, topic: topic.into(), next: 0, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite> Publisher<S> {
    pub(super) async fn publish(&mut self, payload: &[u8]) -> Result<()> {
        self.next = self.next % u16::MAX + 1;
        self.buffer.clear();
        self.buffer.extend(text(&self.topic));
        self.buffer.extend(self.next.to_be_bytes());
        self.buffer.extend(payload);
        self.writer.write_all(&packet(PUBLISH | QOS_1, &self.buffer)).await?;
        // TLS keeps what the socket does not take at once.
        self.writer.flush().await?;
        Ok(())
    }
}

async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(u8, Vec<u8>)> {
    let kind = reader.read_u8().await?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = reader.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        if shift > 21 {
            bail!("a length of more than four bytes");
        }
    }
    if length > MAX_PACKET {
        bail!("a packet of {length} bytes");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok((kind, body))
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let byte = (length % 128) as u8;
        length /= 128;
        packet.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(&text.as_bytes()[..usize::from(length)]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_of_every_length_are_read_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let written = packet(PUBLISH, &vec![7; length]);
            let (kind, body) = read(&mut written.as_slice()).await.unwrap();
            assert_eq!((kind, body.len()), (PUBLISH, length));
        }
    }
}
