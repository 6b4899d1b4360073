//! `GET /stream`: server-sent events and NDJSON.

use std::collections::VecDeque;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::{Client, header};
use serde_json::Value;

use super::{Egress, Incoming, Start, Target, escaped, http3};

/// An answer that does not end by itself.
pub(crate) struct Stream {
    body: Body,
    form: Form,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no end of a line.
    looked: usize,
    ready: VecDeque<String>,
    ended: Option<String>,
}

/// The two forms.
enum Form {
    /// The block that is being read, and the last `id:`.
    Sse {
        event: String,
        data: String,
        id: String,
    },
    Ndjson,
}

/// Whatever carries it.
enum Body {
    Http1(reqwest::Response),
    Http3(http3::Body),
}

impl Stream {
    pub(super) async fn open(egress: Egress, target: &Target, start: &Start) -> Result<Self> {
        let sse = matches!(egress, Egress::Sse | Egress::Sse3);
        let accept = if sse { "text/event-stream" } else { "application/x-ndjson" };
        let form = if sse { Form::Sse { event: String::new(), data: String::new(), id: String::new() } } else { Form::Ndjson };
        let (query, last) = match start {
            Start::Live => (String::new(), None),
            Start::After(cursors) => {
                let places = target.producers.iter().map(|p| cursors.get(p).map(|cursor| format!("{p}:{cursor}")));
                match places.collect::<Option<Vec<_>>>().map(|places| places.join(",")) {
                    // A browser that comes back tells its last id in a header; others write the same into the query.
                    Some(places) if sse => (String::new(), Some(places)),
                    Some(places) => (format!("?from={}", escaped(&places)), None),
                    None => (format!("?from={}", escaped(&start.map(&target.producers)?)), None),
                }
            }
        };
        let mut headers = vec![("accept", accept.to_owned()), ("authorization", format!("Bearer {}", target.token))];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let path = format!("/stream{query}");
        let body = match egress {
            Egress::Sse3 | Egress::Ndjson3 => Body::Http3(http3::Body::get(target, &path, &headers).await?),
            _ => {
                // Everything of a stream has to be there at once, so none is kept for another.
                let client = Client::builder().http1_only().tcp_nodelay(true).pool_max_idle_per_host(0).build()?;
                let mut request = client.get(format!("{}{path}", target.server));
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let response = request.send().await?;
                if !response.status().is_success() {
                    bail!("{}: {}", response.status(), response.text().await.unwrap_or_default());
                }
                let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
                ensure!(kind.starts_with(accept), "{accept} was asked for, and {kind} came");
                Body::Http1(response)
            }
        };
        Ok(Self { body, form, buffer: BytesMut::new(), looked: 0, ready: VecDeque::new(), ended: None })
    }

    pub(super) async fn next(&mut self) -> Result<Incoming> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Incoming::Message(message));
            }
            if let Some(end) = self.ended.take() {
                return Ok(Incoming::End(end));
            }
            match self.body.chunk().await {
                Ok(Some(chunk)) => {
                    self.buffer.extend_from_slice(&chunk);
                    self.lines()?;
                }
                Ok(None) => self.ended = Some("ended".to_owned()),
                Err(e) => self.ended = Some(format!("broken: {e:#}")),
            }
        }
    }

    /// Takes all whole lines out of the buffer.
    fn lines(&mut self) -> Result<()> {
        while let Some(end) = self.buffer[self.looked..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.looked + end);
            self.buffer.advance(1);
            self.looked = 0;
            let line = std::str::from_utf8(&line).context("a line is no text")?.trim_end_matches('\r');
            match &mut self.form {
                Form::Ndjson if line.is_empty() => {}
                Form::Ndjson => self.ready.push_back(line.to_owned()),
                Form::Sse { event, data, id } => match line.split_once(':') {
                    _ if line.is_empty() => {
                        // A block without data only moves the id.
                        if !data.is_empty() {
                            let data = std::mem::take(data);
                            if event.is_empty() {
                                covered(&data, id)?;
                            }
                            self.ready.push_back(data);
                        }
                        event.clear();
                    }
                    Some(("", _comment)) => {}
                    Some((field, value)) => {
                        let value = value.strip_prefix(' ').unwrap_or(value);
                        match field {
                            "event" => value.clone_into(event),
                            "data" if data.is_empty() => value.clone_into(data),
                            "data" => *data = format!("{data}\n{value}"),
                            "id" => value.clone_into(id),
                            // This client comes back when it likes.
                            "retry" => {}
                            _ => bail!("an unknown field: {line}"),
                        }
                    }
                    None => bail!("no line of an event stream: {line}"),
                },
            }
        }
        self.looked = self.buffer.len();
        Ok(())
    }
}

/// A record's `id:` has to lead on exactly behind it: it holds the record's own cursor.
fn covered(record: &str, id: &str) -> Result<()> {
    let value: Value = serde_json::from_str(record).with_context(|| format!("no JSON: {record}"))?;
    let text = |name: &str| value[name].as_str().with_context(|| format!("{name} is missing in {record}"));
    let target = format!("{}:{}", text("producer_id")?, text("cursor")?);
    ensure!(id.split(',').any(|part| part == target), "the id {id} does not hold {target}");
    Ok(())
}

impl Body {
    /// Cancel-safe.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(response) => Ok(response.chunk().await?),
            Self::Http3(body) => body.chunk().await,
        }
    }
}
