//! One request over HTTP/3, on a connection of its own.

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3_quinn::{OpenStreams, RecvStream};
use tokio_util::task::AbortOnDropHandle;

use super::{Target, webtransport};

/// An answer's body.
pub(crate) struct Body {
    stream: RequestStream<RecvStream, Bytes>,
    /// The connection lives as long as someone may ask on it.
    _asking: SendRequest<OpenStreams, Bytes>,
    _driving: AbortOnDropHandle<()>,
}

impl Body {
    pub(super) async fn get(target: &Target, path: &str, headers: &[(&str, String)]) -> Result<Self> {
        let connection = webtransport::connect(target).await?;
        let (mut driver, mut asking) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
        let driving = AbortOnDropHandle::new(tokio::spawn(async move {
            // How the connection ends shows in the body.
            let _ = driver.wait_idle().await;
        }));
        let mut request = reqwest::header::HeaderMap::new();
        for (name, value) in headers {
            request.insert(reqwest::header::HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
        }
        let mut head = http::Request::get(format!("https://{}{path}", webtransport::authority(target)?)).body(())?;
        *head.headers_mut() = request;
        let mut stream = asking.send_request(head).await?;
        // A server that needs nothing more may have said so by now (RFC 9114, section 4.1): its answer says the rest.
        let _ = stream.finish().await;
        let response = stream.recv_response().await?;
        if !response.status().is_success() {
            bail!("{}", response.status());
        }
        let (_, stream) = stream.split();
        Ok(Self { stream, _asking: asking, _driving: driving })
    }

    /// Cancel-safe: what a cancelled call had read of a frame, the next one goes on with.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.stream.recv_data().await.context("the stream")?;
        Ok(chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining())))
    }
}
