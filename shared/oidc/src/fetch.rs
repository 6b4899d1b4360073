//! Fetches a JSON document of an issuer: one connection, one request, no redirects, within limits of time and size.

use std::{io, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use motience_certs::{Trust, client};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

/// Longest time for one document, from the first packet to its last byte.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest document, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{url} does not answer within {} s", LIMIT.as_secs())]
    Slow { url: Url },
    #[error("{url} cannot be reached")]
    Connect { url: Url, source: io::Error },
    #[error("{url} does not speak HTTP")]
    Exchange { url: Url, source: hyper::Error },
    #[error("{url} answers {status}")]
    Status { url: Url, status: StatusCode },
    #[error("{url} cannot be read, or answers with more than {MAX_BYTES} bytes: {problem}")]
    Body { url: Url, problem: String },
    #[error("{url} is not as expected: {problem}")]
    Content { url: Url, problem: String },
}

/// Fetches documents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fetcher(TlsConnector);

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fetcher")
    }
}

impl Fetcher {
    /// One that trusts these roots; `None`: those of the system.
    pub(crate) fn new(roots: Option<&Path>) -> Result<Self, client::Error> {
        let trust = roots.map_or(Trust::Platform, |path| Trust::Ca(path.into()));
        Ok(Self(TlsConnector::from(Arc::new(client::tcp_config(&trust, &[b"http/1.1"])?))))
    }

    /// The document at an address.
    pub(crate) async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, Error> {
        // On the heap: each task that ever checks a token would have room for it.
        let body = timeout(LIMIT, Box::pin(self.body(url))).await.map_err(|_| Error::Slow { url: url.clone() })??;
        serde_json::from_slice(&body).map_err(|e| Error::Content { url: url.clone(), problem: e.to_string() })
    }

    async fn body(&self, url: &Url) -> Result<Bytes, Error> {
        let unreachable = |source| Error::Connect { url: url.clone(), source };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, url.port_or_known_default().unwrap_or(443))).await.map_err(unreachable)?;
        if url.scheme() == "http" {
            return exchange(url, stream).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|e| unreachable(io::Error::other(e)))?;
        exchange(url, self.0.connect(name, stream).await.map_err(unreachable)?).await
    }
}

async fn exchange(url: &Url, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Bytes, Error> {
    let failed = |source| Error::Exchange { url: url.clone(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "motience")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::Content { url: url.clone(), problem: e.to_string() })?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        if answer.status() != StatusCode::OK {
            return Err(Error::Status { url: url.clone(), status: answer.status() });
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        Ok(body.map_err(|e| Error::Body { url: url.clone(), problem: e.to_string() })?.to_bytes())
    };
    tokio::pin!(answered, connection);
    tokio::select! {
        biased;
        outcome = &mut answered => return outcome,
        ended = &mut connection => ended.map_err(failed)?,
    }
    // The peer has closed; what it sent before is still to be read.
    answered.await
}
