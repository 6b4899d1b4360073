//! Requests to a collector, each on a connection of its own: a batch every two seconds needs no more of HTTP.

use std::{io, sync::Arc};

use motience_certs::{Trust, client};
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::Url;

/// Bytes of an answer that are read: its first line.
const ANSWER: u64 = 1024;

/// Why a batch is not at the collector, or none can be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: must be an address such as http://localhost:4318")]
    Endpoint,
    /// The headers are none.
    #[error("OTEL_EXPORTER_OTLP_HEADERS: must be headers such as api-key=..., separated by commas")]
    Headers,
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The system's certificates.
    #[error(transparent)]
    Trust(#[from] client::Error),
    /// The collector's answer is another than success.
    #[error("the collector answers {0}")]
    Refused(String),
    /// There is no answer in time.
    #[error("the collector does not answer in time")]
    Slow,
}

/// A collector.
pub(super) struct Collector {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The head of each request, but for its length.
    head: String,
}

impl Collector {
    pub(super) fn new(endpoint: &str, headers: Option<&SecretString>) -> Result<Self, Error> {
        let url = Url::parse(endpoint).map_err(|_| Error::Endpoint)?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Error::Endpoint)?.to_owned();
        let port = url.port_or_known_default().ok_or(Error::Endpoint)?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| Error::Endpoint)?;
                Some((TlsConnector::from(Arc::new(client::tcp_config(&Trust::Platform, &[b"http/1.1"])?)), name))
            }
            _ => return Err(Error::Endpoint),
        };
        // As the specification of OTLP has it: the path of the signal is behind that of the address.
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        let mut head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Type: application/x-protobuf\r\nUser-Agent: motience\r\n"
        );
        for header in headers.map_or("", |headers| headers.expose_secret()).split(',').map(str::trim).filter(|header| !header.is_empty()) {
            let (name, value) = header.split_once('=').ok_or(Error::Headers)?;
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !is_name || value.chars().any(char::is_control) {
                return Err(Error::Headers);
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        Ok(Self { host, port, tls, head })
    }

    pub(super) async fn post(&self, body: Vec<u8>) -> Result<(), Error> {
        let stream = TcpStream::connect((self.host.trim_matches(['[', ']']), self.port)).await?;
        match &self.tls {
            None => self.send(stream, &body).await,
            Some((tls, name)) => self.send(tls.connect(name.clone(), stream).await?, &body).await,
        }
    }

    async fn send(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, body: &[u8]) -> Result<(), Error> {
        let head = format!("{}Content-Length: {}\r\n\r\n", self.head, body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.flush().await?;
        let (mut answer, mut reading) = (Vec::new(), stream.take(ANSWER));
        while !answer.contains(&b'\n') && reading.read_buf(&mut answer).await? > 0 {}
        let answer = String::from_utf8_lossy(&answer);
        let line = answer.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(()),
            _ => Err(Error::Refused(line.escape_debug().to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_and_headers_are_headers() {
        let head = |endpoint: &str, headers: &str| Collector::new(endpoint, Some(&headers.into())).map(|collector| collector.head);
        assert!(head("http://localhost:4318", "").unwrap().starts_with("POST /v1/traces HTTP/1.1\r\nHost: localhost:4318\r\n"));
        assert!(head("http://[::1]/otlp/", "").unwrap().starts_with("POST /otlp/v1/traces HTTP/1.1\r\nHost: [::1]:80\r\n"));
        assert!(head("http://a", "api-key=k, b=c=d").unwrap().ends_with("api-key: k\r\nb: c=d\r\n"));
        for (endpoint, headers) in
            [("localhost:4318", ""), ("ftp://a", ""), ("http://a", "key"), ("http://a", "k=a\r\nb: c"), ("http://a", "=x")]
        {
            assert!(head(endpoint, headers).is_err(), "{endpoint} {headers:?}");
        }
    }
}
