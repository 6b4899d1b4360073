//! The server side of motience/1, scripted by each test.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::BytesMut;
use motience_certs::{
    Trust, dev,
    server::{EarlyData, ServerIdentity, quic_config},
};
use motience_device::{
    client::{Config, Server},
    link::Redundancy,
};
use motience_proto::{
    model::{DeviceId, Fence, RangeSet},
    wire::{self, Ack, CloseCode, Frame, Health, Hello, Limits, Record, StreamKind, Welcome},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, VarInt, crypto::rustls::QuicServerConfig};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::soon;

/// A listening server; its certificates live as long.
pub(crate) struct Peer {
    endpoint: Endpoint,
    ca: PathBuf,
    _dir: tempfile::TempDir,
}

/// A connection that said `Hello` and waits for the answer.
pub(crate) struct Guest {
    pub(crate) connection: Connection,
    pub(crate) hello: Hello,
    pub(crate) send: SendStream,
    frames: Frames,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "rustls compares with the system's clock")]
        let certs = dev::ensure(dir.path(), OffsetDateTime::now_utc()).unwrap();
        let identity = ServerIdentity::load(&certs.chain, &certs.key).unwrap();
        let tls = quic_config(identity, &[wire::ALPN], EarlyData::Refuse);
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { endpoint, ca: certs.ca, _dir: dir }
    }

    /// Settings of a client that connects here.
    pub(crate) fn config(&self) -> Config {
        let port = self.endpoint.local_addr().unwrap().port();
        let server = Server { host: "localhost".into(), port };
        let mut config = Config::new(server, Trust::Ca(self.ca.clone()), DeviceId::new("dev").unwrap());
        // Each record once, so that a test can count them; copies have tests of their own.
        config.link.redundancy = Redundancy::Off;
        config
    }

    /// The next connection, up to its `Hello`.
    pub(crate) async fn guest(&self) -> Guest {
        soon("a connection", async {
            loop {
                // The loser of a race between addresses goes away without a word.
                let Ok(connection) = self.endpoint.accept().await.unwrap().await else { continue };
                let Ok((send, receive)) = connection.accept_bi().await else { continue };
                let mut frames = Frames::new(receive);
                let Some(Frame::Hello(hello)) = frames.next().await else { panic!("no Hello") };
                return Guest { connection, hello, send, frames };
            }
        })
        .await
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }
}

impl Guest {
    pub(crate) async fn welcome(&mut self, seen: &str) {
        self.welcome_with(Welcome { seen: seen.parse().unwrap(), ..welcome() }).await;
    }

    pub(crate) async fn welcome_with(&mut self, welcome: Welcome) {
        self.put(Frame::Welcome(welcome)).await;
    }

    pub(crate) async fn put(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.send.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn ack(&mut self, ranges: &str) {
        self.put(Frame::Ack(Ack { ranges: ranges.parse().unwrap() })).await;
    }

    /// The next frame on the control stream, but for the device's word of its health, which may come at any time.
    pub(crate) async fn control(&mut self) -> Option<Frame> {
        loop {
            match soon("a control frame", self.frames.next()).await {
                Some(Frame::Health(_)) => {}
                other => return other,
            }
        }
    }

    /// The device's next word of its health.
    pub(crate) async fn health(&mut self) -> Health {
        loop {
            match soon("word of the device's health", self.frames.next()).await {
                Some(Frame::Health(health)) => return health,
                Some(_) => {}
                None => panic!("the control stream ended"),
            }
        }
    }

    pub(crate) fn close(&self, code: CloseCode) {
        self.connection.close(VarInt::from_u32(code.number()), b"because");
    }

    /// Takes records on all lanes, as they come.
    pub(crate) fn records(&self) -> Records {
        let (out, records) = mpsc::channel(4096);
        let connection = self.connection.clone();
        tokio::spawn(async move {
            while let Ok(stream) = connection.accept_uni().await {
                let out = out.clone();
                tokio::spawn(async move {
                    let mut frames = Frames::new(stream);
                    let kind = frames.kind().await;
                    while let Some(Frame::Record(record)) = frames.next().await {
                        out.send((kind, record)).await.unwrap();
                    }
                });
            }
        });
        Records(records)
    }

    /// A stream down.
    pub(crate) async fn deliver(&self, frames: &[Frame]) -> SendStream {
        let mut bytes = BytesMut::new();
        StreamKind::Delivery.encode(&mut bytes);
        for frame in frames {
            frame.encode(&mut bytes);
        }
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream
    }
}

/// Records as they come.
pub(crate) struct Records(mpsc::Receiver<(StreamKind, Record)>);

impl Records {
    /// The next record, whenever it comes; `None`: the connection has ended.
    pub(crate) async fn arrived(&mut self) -> Option<Record> {
        self.0.recv().await.map(|(_, record)| record)
    }

    pub(crate) async fn next(&mut self) -> (StreamKind, Record) {
        soon("a record", self.0.recv()).await.unwrap()
    }

    /// The numbers of the next records.
    pub(crate) async fn take(&mut self, count: usize) -> RangeSet {
        let mut seqs = RangeSet::new();
        for _ in 0..count {
            assert!(seqs.insert(self.next().await.1.seq.0), "a record came twice");
        }
        seqs
    }

    pub(crate) fn is_quiet(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        node: "test".into(),
        fence: Fence(1),
        seen: RangeSet::new(),
        max_record: 65_536,
        credit: 1000,
        token_expires_in: 3600,
        durability: "memory".into(),
        features: 0,
    }
}

struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
}

impl Frames {
    fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    async fn kind(&mut self) -> StreamKind {
        loop {
            if let Some(kind) = StreamKind::decode(&mut self.buffer).unwrap() {
                return kind;
            }
            let chunk = self.stream.read_chunk(1024, true).await.unwrap().unwrap();
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, Limits::for_records(65_536)).unwrap() {
                return Some(frame);
            }
            let chunk = self.stream.read_chunk(65_536, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }
}
