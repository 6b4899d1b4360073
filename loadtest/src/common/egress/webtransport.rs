//! WebTransport: a control stream, and a stream for each producer.

use std::{collections::VecDeque, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BytesMut};
use motience_certs::{Trust, client::quic_config};
use quinn::{Endpoint, IdleTimeout, TransportConfig, crypto::rustls::QuicClientConfig};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use web_transport_quinn::{RecvStream, SendStream, Session as Inner};

use super::{Incoming, Start, Target};

/// Lines read and not yet taken; streams are read no faster.
const READY: usize = 1024;
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Silence after which the connection is dead.
const IDLE: Duration = Duration::from_secs(6);
/// How often the peer hears from this side.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// An open session.
pub(crate) struct Session {
    inner: Inner,
    said: mpsc::Receiver<Incoming>,
    /// Messages that came while the answers were waited for.
    first: VecDeque<Incoming>,
    /// Kept open: its end would be the session's.
    _control: SendStream,
    _tasks: JoinSet<()>,
}

impl Session {
    pub(super) async fn open(target: &Target, start: &Start) -> Result<Self> {
        let url: url::Url = format!("https://{}/wt", authority(target)?).parse()?;
        let inner = Inner::connect(connect(target).await?, url).await?;
        let (mut control, receive) = inner.open_bi().await?;
        let mut answers = Lines::new(receive);
        control.write_all(line(&json!({"type": "hello", "token": target.token})).as_bytes()).await?;
        let welcome = answers.next().await?.context("the control stream ended before the welcome")?;
        let welcome: Value = serde_json::from_str(&welcome)?;
        ensure!(welcome["type"] == "welcome", "no welcome: {welcome}");
        for producer in &target.producers {
            let wish = json!({"type": "subscribe", "producer_id": producer.to_string(), "from": start.of(*producer)});
            control.write_all(line(&wish).as_bytes()).await?;
        }
        let (sender, said) = mpsc::channel(READY);
        let mut tasks = JoinSet::new();
        tasks.spawn(tell(answers, sender.clone()));
        tasks.spawn(accept(inner.clone(), sender));
        let mut session = Self { inner, said, first: VecDeque::new(), _control: control, _tasks: tasks };
        session.answered(target.producers.len()).await;
        Ok(session)
    }

    /// Returns once each wish is answered by a cursor or by a refusal: what is logged from then on comes.
    async fn answered(&mut self, wishes: usize) {
        let mut answers = 0;
        while answers < wishes {
            let said = self.said().await;
            match &said {
                Incoming::Message(text) => {
                    answers += usize::from(Incoming::notice(text).is_some_and(|kind| matches!(&*kind, "cursor" | "refused")));
                }
                Incoming::End(_) => answers = wishes,
            }
            self.first.push_back(said);
        }
    }

    pub(super) async fn next(&mut self) -> Incoming {
        match self.first.pop_front() {
            Some(said) => said,
            None => self.said().await,
        }
    }

    async fn said(&mut self) -> Incoming {
        tokio::select! {
            biased;
            said = self.said.recv() => said.unwrap_or_else(|| Incoming::End("ended".to_owned())),
            closed = self.inner.closed() => Incoming::End(format!("closed: {closed}")),
        }
    }
}

/// A connection to the endpoint, for HTTP/3.
pub(super) async fn connect(target: &Target) -> Result<quinn::Connection> {
    let trust = target.ca.clone().map_or(Trust::Platform, Trust::Ca);
    let mut tls = quic_config(&trust, &[b"h3"])?;
    // A connection of a test says nothing before it is answered.
    tls.enable_early_data = false;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?)).keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    Ok(endpoint.connect_with(config, target.address()?, "localhost")?.await?)
}

/// The name that the development certificate has.
pub(super) fn authority(target: &Target) -> Result<String> {
    Ok(format!("localhost:{}", target.address()?.port()))
}

fn line(message: &Value) -> String {
    format!("{message}\n")
}

/// Reads every stream that the node opens.
async fn accept(session: Inner, said: mpsc::Sender<Incoming>) {
    let mut deliveries = JoinSet::new();
    while let Ok(stream) = session.accept_uni().await {
        deliveries.spawn(tell(Lines::new(stream), said.clone()));
    }
}

async fn tell(mut lines: Lines, said: mpsc::Sender<Incoming>) {
    // A stream that breaks off is its session's end, which tells itself.
    while let Ok(Some(line)) = lines.next().await {
        if said.send(Incoming::Message(line)).await.is_err() {
            return;
        }
    }
}

/// A stream, read line by line.
struct Lines {
    stream: RecvStream,
    buffer: BytesMut,
    looked: usize,
}

impl Lines {
    fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new(), looked: 0 }
    }

    async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.looked + end);
                self.buffer.advance(1);
                self.looked = 0;
                return Ok(Some(String::from_utf8(line.to_vec())?));
            }
            self.looked = self.buffer.len();
            match self.stream.read_chunk(READ, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => bail!("a stream ends within a line"),
            }
        }
    }
}
