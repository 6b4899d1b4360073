//! A producer: records on its control stream, on streams of their own, or in datagrams; an acknowledgement for each that is
//! not a datagram, in the order they were taken, once it is in the log.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use motience_auth::Standing;
use motience_h3::{Inbox, Incoming};
use motience_limits::uploads::{Owner, Upload};
use motience_proto::model::{Transport, envelope::MAX_ENVELOPE};
use motience_relay::SubscriberWatch;
use motience_runtime::lifecycle::Leave;
use motience_session::{CloseReason, Message, MessagePublisher, MessageSession, MessageTransport};
use tokio::sync::mpsc;

use super::{
    Shared, count,
    messages::Lines,
    session::{Outgoing, Peer},
};

/// Lines handed on as one group.
const GROUP: usize = 512;
/// Groups of lines read from streams that wait to be taken.
const WAITING: usize = 4;

/// Serves a producer until it leaves or has to. `early`: streams that came before its hello.
pub(super) async fn serve(
    peer: &Peer,
    (send, lines): (&mut Outgoing, &mut Lines),
    (mut place, early): (Inbox, Vec<Incoming>),
    (standing, news): (&Standing, Option<SubscriberWatch>),
    (shared, leave): (&Arc<Shared>, &Leave),
) -> Result<(), CloseReason> {
    let grant = standing.grant();
    let publisher = MessagePublisher::open(&shared.backend, grant.log_key(), Transport::WebTransport).await?;
    let limit = shared.backend.relay.limits().record + MAX_ENVELOPE;
    lines.allow(limit);
    let (read, groups) = mpsc::channel(WAITING);
    let (mut streams, datagrams) = place.take();
    // All streams are one upload: how many there are bounds what one session holds.
    let upload = shared.backend.uploads.upload(&peer.uploads, Owner::Account(grant.user));
    let mut producer = Producer { peer, send, lines, groups, ready: VecDeque::new(), datagrams };
    tokio::select! {
        biased;
        ended = MessageSession::new(publisher, standing).hearing(news).run(&mut producer, leave.asked(), shared.config.session.drain) => ended,
        reason = read_streams(&mut streams, early, limit, read, &upload) => Err(reason),
    }
}

/// A WebTransport session as the transport of a producer's messages.
struct Producer<'s> {
    peer: &'s Peer,
    send: &'s mut Outgoing,
    /// Lines of the control stream.
    lines: &'s mut Lines,
    /// Lines of the other streams.
    groups: mpsc::Receiver<Vec<Bytes>>,
    /// Those of them that are given out next.
    ready: VecDeque<Bytes>,
    datagrams: mpsc::Receiver<Bytes>,
}

impl MessageTransport for Producer<'_> {
    const RENEWS: bool = true;

    async fn recv(&mut self) -> Result<Option<Message>, CloseReason> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(Message::Text(line)));
            }
            tokio::select! {
                biased;
                Some(datagram) = self.datagrams.recv() => return Ok(Some(Message::Datagram(datagram))),
                line = self.lines.next() => return Ok(line?.map(Message::Text)),
                Some(lines) = self.groups.recv() => self.ready = lines.into(),
            }
        }
    }

    async fn send(&mut self, replies: Vec<String>) -> Result<(), CloseReason> {
        let mut out = BytesMut::new();
        for reply in replies {
            out.extend_from_slice(reply.as_bytes());
            out.extend_from_slice(b"\n");
        }
        self.send.write_within(self.peer.write, out.freeze()).await
    }

    fn count(&self, records: u64, bytes: u64) {
        count("producer", records, bytes);
    }
}

/// A line with those that have come behind it.
fn gather(first: Bytes, lines: &mut Lines) -> Result<Vec<Bytes>, CloseReason> {
    let mut group = vec![first];
    while group.len() < GROUP
        && let Some(line) = lines.ready()?
    {
        group.push(line);
    }
    Ok(group)
}

/// Reads every stream that the client opens. How many at once is bounded by the transport, and what is kept of them by `upload`.
async fn read_streams(
    streams: &mut mpsc::Receiver<Incoming>,
    early: Vec<Incoming>,
    limit: usize,
    to: mpsc::Sender<Vec<Bytes>>,
    upload: &Upload,
) -> CloseReason {
    let mut reading = FuturesUnordered::new();
    for stream in early {
        if let Incoming::Uni(recv, buffer) = stream {
            reading.push(read(Lines::new(recv, buffer, limit).within(upload.part()), &to));
        }
    }
    loop {
        tokio::select! {
            stream = streams.recv() => match stream {
                Some(Incoming::Uni(recv, buffer)) => reading.push(read(Lines::new(recv, buffer, limit).within(upload.part()), &to)),
                Some(bidi @ Incoming::Bidi(..)) => {
                    bidi.end(0_u32.into());
                    return CloseReason::protocol("there is one control stream");
                }
                None => return CloseReason::gone("the connection is over"),
            },
            Some(ended) = reading.next() => if let Err(ending) = ended
                && ending.code().is_some()
            {
                return ending;
            },
        }
    }
}

/// One stream's lines. A stream that is reset ends where it is.
async fn read(mut lines: Lines, to: &mpsc::Sender<Vec<Bytes>>) -> Result<(), CloseReason> {
    while let Some(line) = lines.next().await? {
        let group = gather(line, &mut lines)?;
        lines.holds(group.iter().map(Bytes::len).sum())?;
        to.send(group).await.map_err(|_| CloseReason::gone("the session is over"))?;
        lines.holds(0)?;
    }
    Ok(())
}
