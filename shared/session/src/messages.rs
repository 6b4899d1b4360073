//! Producers that speak JSON, over any transport: a message is a record or a ping ([`envelope`]), and each has its reply, in order, once
//! the log has it.
//!
//! [`MessagePublisher`] submits records and notices their devices. [`MessageSession`] is a connection that gets a reply for each record.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use motience_auth::{Grant, Standing};
use motience_backend::Backend;
use motience_cluster::Senders;
use motience_proto::model::{
    LogKey, Transport,
    envelope::{self, Envelope},
    record::{self, Invalid},
};
use motience_relay::{Committed, Error, Publisher, SubscriberWatch, Ticket};
use motience_runtime::lifecycle::Drain;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    CloseReason,
    admission::renew,
    replies::{ClientRecord, MessageBatch, ReplyQueue, error_reply},
    subscribers::{heard, subscription_message},
};

/// Messages that make a batch full.
const BATCH_MESSAGES: usize = 512;
/// Bytes of records and answers that do.
const BATCH_BYTES: usize = 256 * 1024;

/// A client whose records have no numbers of their own, and name their devices themselves.
pub struct MessagePublisher {
    backend: Arc<Backend>,
    publisher: Publisher,
    devices: Senders,
}

impl MessagePublisher {
    /// Opens a publisher for one connection or request, of an account that may publish ([`Backend::may_publish`]).
    pub async fn open(backend: &Arc<Backend>, key: LogKey, transport: Transport) -> Result<Self, Error> {
        let publisher = backend.relay.ephemeral_publisher(key).await?;
        let devices = backend.reports.devices.senders(key, transport);
        Ok(Self { backend: Arc::clone(backend), publisher, devices })
    }

    /// The time of arrival of what is read now: one for all messages that came together.
    pub fn now(&self) -> OffsetDateTime {
        self.backend.clock.now()
    }

    /// The meaning of a message that an account sent, and that came at that time.
    pub fn read(&self, sent: Bytes, grant: &Grant, now: OffsetDateTime) -> Result<Envelope, Invalid> {
        read(&self.backend, sent, grant, now)
    }

    /// Hands records to the log's writer as one batch, and waits while that is behind.
    pub async fn submit(&mut self, records: Vec<ClientRecord>) -> Result<Ticket, Error> {
        let mut group = self.publisher.group();
        for (record, id) in records {
            notice(&mut self.devices, &self.publisher, &record);
            group.push_unnumbered(id.as_deref(), record.json);
        }
        group.submit().await
    }

    /// Submits a record that is worth something only now, unless the log's writer is behind. Whether it was taken.
    fn submit_latest(&mut self, record: record::Admitted) -> bool {
        notice(&mut self.devices, &self.publisher, &record);
        self.publisher.try_submit(record.json).is_ok_and(|taken| taken)
    }

    /// Consumers that are subscribed to the producer; 0 where they cannot be counted, since the count is a courtesy.
    pub async fn subscriber_count(&self) -> u64 {
        self.backend.relay.subscriber_count(self.publisher.producer()).await.unwrap_or_else(|e| {
            warn!(error = %e, "subscribers cannot be counted");
            0
        })
    }

    /// How far the submissions have come.
    pub fn progress(&self) -> watch::Receiver<Committed> {
        self.publisher.progress()
    }

    /// Waits until everything up to `ticket` is in the log.
    pub async fn committed(&self, ticket: Ticket) -> Result<(), Error> {
        self.publisher.committed(ticket).await
    }
}

/// The meaning of a message that an account sent, and that came at that time. A record that names a revoked device is none.
pub fn read(backend: &Backend, sent: Bytes, grant: &Grant, now: OffsetDateTime) -> Result<Envelope, Invalid> {
    let meaning = envelope::read(sent, backend.relay.limits().record, &grant.defaults(now))?;
    if let Envelope::Record(record, _) = &meaning {
        backend.devices.check_record(grant.user.producer(), &record.json)?;
    }
    Ok(meaning)
}

/// Notices the device that a record names.
fn notice(devices: &mut Senders, publisher: &Publisher, record: &record::Admitted) {
    if let Some(device) = record::device_of(&record.json) {
        devices.seen(&device, publisher.clock_fault(record.time));
    }
}

/// How a client's messages come, and their replies go.
pub trait MessageTransport: Send {
    /// Whether a client may renew its token by a message `{"type":"token","token":…}`.
    const RENEWS: bool;

    /// Returns the next message; `None` where the client has ended in good order. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Result<Option<Message>, CloseReason>> + Send;

    /// Sends replies, each a message of its own, which the client must take in time.
    fn send(&mut self, replies: Vec<String>) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// Counts records that went through, and their bytes.
    fn count(&self, records: u64, bytes: u64);
}

/// A client's message, and how it came.
#[derive(Debug)]
pub enum Message {
    /// In order, and for good: it has a reply.
    Text(Bytes),
    /// In a datagram: it has none.
    Datagram(Bytes),
}

/// One connection of a producer that speaks JSON.
pub struct MessageSession<'s> {
    publisher: MessagePublisher,
    standing: &'s Standing,
    replies: ReplyQueue,
    /// News of the producer's subscribers, where it asked for them.
    news: Option<SubscriberWatch>,
}

impl<'s> MessageSession<'s> {
    /// A session that has heard nothing yet.
    pub fn new(publisher: MessagePublisher, standing: &'s Standing) -> Self {
        Self { publisher, standing, replies: ReplyQueue::default(), news: None }
    }

    /// Tells the producer of its subscribers too.
    #[must_use]
    pub fn hearing(self, news: Option<SubscriberWatch>) -> Self {
        Self { news, ..self }
    }

    /// Serves the client until it leaves, or `draining` begins. Then acknowledgements in flight have their share of `drain`. The caller watches
    /// the token's end.
    pub async fn run<T: MessageTransport>(
        mut self,
        transport: &mut T,
        draining: &CancellationToken,
        drain: Drain,
    ) -> Result<(), CloseReason> {
        let mut progress = self.publisher.progress();
        // Registered once, and not for each message.
        let mut drains = pin!(draining.cancelled());
        loop {
            let step = tokio::select! {
                biased;
                () = &mut drains => Err(CloseReason::Draining),
                // Cannot fail: the publisher holds the sender.
                _ = progress.changed(), if !self.replies.is_empty() => Ok(()),
                subscription = heard(&mut self.news) => transport.send(vec![subscription_message(&subscription).to_string()]).await,
                message = transport.recv(), if self.replies.have_room() => self.take_all(message, transport).await,
            };
            let committed = progress.borrow_and_update().clone();
            let answered = self.answer(transport, &committed).await;
            if let Err(reason) = step.and(answered) {
                if matches!(reason, CloseReason::Draining | CloseReason::Done | CloseReason::RateLimited(_)) {
                    // Records that were submitted are still acknowledged, as far as the log allows.
                    let _ = timeout(drain.acknowledgements(), self.finish(transport, &mut progress)).await;
                }
                if let CloseReason::RateLimited(why) = &reason {
                    transport.send(vec![error_reply("rate_limited", why)]).await?;
                }
                return if reason == CloseReason::Done { Ok(()) } else { Err(reason) };
            }
            // However fast the client sends.
            tokio::task::consume_budget().await;
        }
    }

    /// Takes a message and those that have come behind it, as one batch. The token may be renewed among them.
    async fn take_all<T: MessageTransport>(
        &mut self,
        first: Result<Option<Message>, CloseReason>,
        transport: &mut T,
    ) -> Result<(), CloseReason> {
        let (grant, now) = (self.standing.grant(), self.publisher.now());
        let mut batch = MessageBatch::default();
        let (mut next, mut messages, mut renewal) = (Some(first), 0, None);
        let mut outcome = Ok(());
        while let Some(message) = next {
            match message {
                Ok(Some(Message::Text(text))) => match self.publisher.read(text.clone(), &grant, now) {
                    Ok(Envelope::Unknown(name)) if T::RENEWS && name == "token" => renewal = Some(text),
                    meaning => batch.take(meaning),
                },
                Ok(Some(Message::Datagram(datagram))) => self.datagram(datagram, &grant, now, transport),
                Ok(None) => outcome = Err(CloseReason::Done),
                Err(reason) => outcome = Err(reason),
            }
            messages += 1;
            if outcome.is_err() || messages >= BATCH_MESSAGES || batch.bytes() >= BATCH_BYTES {
                break;
            }
            next = transport.recv().now_or_never();
        }
        self.submit(batch, transport).await?;
        if let Some(message) = renewal {
            let Renewal { token } = Renewal::read(&message)?;
            let reply = renewal_reply(&self.publisher.backend, self.standing, token.as_deref()).await?;
            transport.send(vec![reply]).await?;
        }
        outcome
    }

    async fn submit<T: MessageTransport>(&mut self, batch: MessageBatch, transport: &mut T) -> Result<(), CloseReason> {
        let (records, answers) = batch.into_parts();
        let count = records.len() as u64;
        let bytes = records.iter().map(|(record, _)| record.json.len() as u64).sum();
        let ticket = if records.is_empty() { Ticket::default() } else { self.publisher.submit(records).await? };
        self.replies.take(answers, ticket);
        self.standing.count(count);
        transport.count(count, bytes);
        Ok(())
    }

    /// Takes a record that is worth something only now: dropped where the log's writer is behind, never answered.
    fn datagram<T: MessageTransport>(&mut self, datagram: Bytes, grant: &Grant, now: OffsetDateTime, transport: &T) {
        metrics::counter!("motience_latest_received_total").increment(1);
        if let Ok(Envelope::Record(record, _)) = self.publisher.read(datagram, grant, now) {
            let bytes = record.json.len() as u64;
            if self.publisher.submit_latest(record) {
                self.standing.count(1);
                return transport.count(1, bytes);
            }
        }
        debug!("a record that is worth something only now is dropped");
        metrics::counter!("motience_latest_dropped_total").increment(1);
    }

    /// Sends the replies that are due, from the front.
    async fn answer<T: MessageTransport>(&mut self, transport: &mut T, committed: &Committed) -> Result<(), CloseReason> {
        if self.replies.are_due(committed.up_to) {
            let subscribers = self.publisher.subscriber_count().await;
            let due = std::iter::from_fn(|| self.replies.next(committed.up_to, subscribers)).collect();
            transport.send(due).await?;
        }
        committed.error.as_ref().map_or(Ok(()), |error| Err(Error::from(error.clone()).into()))
    }

    async fn finish<T: MessageTransport>(
        &mut self,
        transport: &mut T,
        progress: &mut watch::Receiver<Committed>,
    ) -> Result<(), CloseReason> {
        loop {
            let committed = progress.borrow_and_update().clone();
            self.answer(transport, &committed).await?;
            if self.replies.is_empty() || progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

/// A message that renews the token.
#[derive(Deserialize)]
struct Renewal {
    token: Option<String>,
}

impl Renewal {
    fn read(message: &[u8]) -> Result<Self, CloseReason> {
        serde_json::from_slice(message).map_err(|e| CloseReason::protocol(format!("this is no message: {e}")))
    }
}

/// Takes the token of a message that renews it. Returns the reply.
async fn renewal_reply(backend: &Backend, standing: &Standing, token: Option<&str>) -> Result<String, CloseReason> {
    let expires_in = renew(backend, standing, given(token)?).await?;
    Ok(json!({"type": "token_accepted", "expires_in": expires_in}).to_string())
}

/// The token of a message that must have one.
pub fn given(token: Option<&str>) -> Result<&str, CloseReason> {
    token.ok_or_else(|| CloseReason::Unauthenticated("there is no token".into()))
}
