//! A producer: records on its control stream, on streams of their own, or in datagrams; an acknowledgement for each that is
//! not a datagram, in the order they were taken, once it is in the log.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use motience_auth::Standing;
use motience_h3::{Inbox, Incoming};
use motience_limits::uploads::{Owner, Upload};
use motience_log::Transport;
use motience_proto::model::{
    envelope::{self, Envelope, MAX_ENVELOPE},
    record,
};
use motience_relay::{
    self as relay, Committed, Publisher, Senders,
    replies::{Gathered, Replies},
};
use motience_session::CloseReason;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, timeout},
};
use tracing::{debug, warn};

use super::{
    Shared, count,
    messages::{self, Lines, Said},
    say,
    session::{Outgoing, Peer},
};

/// Lines handed on as one group.
const GROUP: usize = 512;
/// Groups of lines read from streams that wait to be taken.
const WAITING: usize = 4;
/// How long acknowledgements under way are waited for when the node drains.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// Serves a producer until it leaves or has to. `early`: streams that came before its hello.
pub(super) async fn serve(
    peer: &Peer,
    (send, lines): (&mut Outgoing, &mut Lines),
    mut place: Inbox,
    early: Vec<Incoming>,
    standing: &Standing,
    shared: &Arc<Shared>,
) -> Result<(), CloseReason> {
    let key = standing.grant().log_key();
    let publisher = shared.backend.relay.passing_publisher(key).await?;
    let limit = shared.backend.relay.limits().record + MAX_ENVELOPE;
    lines.allow(limit);
    let (read, groups) = mpsc::channel(WAITING);
    let (mut streams, datagrams) = place.take();
    // All streams are one upload: how many there are bounds what one session holds.
    let upload = shared.backend.uploads.upload(&peer.uploads, Owner::Account(standing.grant().user));
    let devices = shared.backend.relay.devices().senders(key, Transport::WebTransport);
    let mut session = Session { peer, shared, standing, publisher, devices, replies: Replies::default() };
    tokio::select! {
        biased;
        ending = session.run(send, lines, groups, datagrams) => ending,
        ending = read_streams(&mut streams, early, limit, read, &upload) => Err(ending),
    }
}

struct Session<'s> {
    peer: &'s Peer,
    shared: &'s Shared,
    standing: &'s Standing,
    publisher: Publisher,
    devices: Senders,
    replies: Replies,
}

/// What a producer's turn brings.
enum Turn {
    Lines(Vec<Bytes>),
    Datagram(Bytes),
    Progress,
}

impl Session<'_> {
    async fn run(
        &mut self,
        send: &mut Outgoing,
        lines: &mut Lines,
        mut groups: mpsc::Receiver<Vec<Bytes>>,
        mut datagrams: mpsc::Receiver<Bytes>,
    ) -> Result<(), CloseReason> {
        let shared = self.shared;
        let mut progress = self.publisher.progress();
        loop {
            let room = self.replies.have_room();
            let turn = tokio::select! {
                biased;
                () = shared.draining.cancelled() => {
                    // What was submitted is still acknowledged, as far as the log allows.
                    let _ = timeout(DRAIN_LIMIT, self.finish(send, &mut progress)).await;
                    return Err(CloseReason::Draining);
                }
                // Cannot fail: the publisher holds the sender.
                _ = progress.changed(), if !self.replies.is_empty() => Turn::Progress,
                Some(datagram) = datagrams.recv() => Turn::Datagram(datagram),
                line = lines.next(), if room => match line? {
                    Some(line) => Turn::Lines(gather(line, lines)?),
                    None => {
                        let _ = timeout(DRAIN_LIMIT, self.finish(send, &mut progress)).await;
                        return Ok(());
                    }
                },
                Some(lines) = groups.recv(), if room => Turn::Lines(lines),
            };
            match turn {
                Turn::Lines(lines) => self.take(lines, send).await?,
                Turn::Datagram(datagram) => self.latest(datagram),
                Turn::Progress => {}
            }
            let committed = progress.borrow_and_update().clone();
            self.answer(send, &committed).await?;
        }
    }

    /// Takes lines as one group; the token may be renewed among them.
    async fn take(&mut self, lines: Vec<Bytes>, send: &mut Outgoing) -> Result<(), CloseReason> {
        let backend = &self.shared.backend;
        let (limit, now) = (backend.relay.limits().record, backend.clock.now());
        let grant = self.standing.grant();
        let mut gathered = Gathered::default();
        let mut renewed = None;
        for line in lines {
            let meaning = envelope::read(line.clone(), limit, &grant.defaults(now));
            if matches!(&meaning, Ok(Envelope::Unknown(name)) if name == "token") {
                renewed = Some(Said::read(&line)?);
                continue;
            }
            gathered.take(meaning);
        }
        let (records, bytes) = gathered.submit(&self.publisher, &mut self.devices, &mut self.replies).await?;
        count("producer", records, bytes);
        let Some(said) = renewed else { return Ok(()) };
        let accepted = messages::renew(backend, self.standing, said.token.as_deref()).await?;
        say(send, self.peer, &accepted).await
    }

    /// Takes what is worth something only now: dropped where the log is behind, never answered.
    fn latest(&mut self, datagram: Bytes) {
        metrics::counter!("motience_latest_received_total").increment(1);
        let backend = &self.shared.backend;
        let grant = self.standing.grant();
        let defaults = grant.defaults(backend.clock.now());
        let admitted = match envelope::read(datagram, backend.relay.limits().record, &defaults) {
            Ok(Envelope::Record(record, _)) => Some(record),
            _ => None,
        };
        let bytes = admitted.as_ref().map_or(0, |record| record.json.len() as u64);
        if let Some(record) = &admitted
            && let Some(device) = record::device_of(&record.json)
        {
            self.devices.seen(&device, self.publisher.clock_fault(record.time));
        }
        match admitted.map(|record| self.publisher.try_submit(record.json)) {
            Some(Ok(true)) => count("producer", 1, bytes),
            dropped => {
                debug!(?dropped, "a record that is worth something only now is dropped");
                metrics::counter!("motience_latest_dropped_total").increment(1);
            }
        }
    }

    /// Writes the replies that are due, from the front.
    async fn answer(&mut self, send: &mut Outgoing, committed: &Committed) -> Result<(), CloseReason> {
        if self.replies.are_due(committed.up_to) {
            let subscribers = self.shared.backend.relay.subscriber_count(self.publisher.producer()).await.unwrap_or_else(|e| {
                // The record is in the log; the count is a courtesy.
                warn!(error = %e, "subscribers cannot be counted");
                0
            });
            let mut out = BytesMut::new();
            while let Some(text) = self.replies.next(committed.up_to, subscribers) {
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\n");
            }
            send.write_within(self.peer.write, out.freeze()).await?;
        }
        committed.error.as_ref().map_or(Ok(()), |e| Err(relay::Error::from(e.clone()).into()))
    }

    async fn finish(&mut self, send: &mut Outgoing, progress: &mut watch::Receiver<Committed>) -> Result<(), CloseReason> {
        loop {
            let committed = progress.borrow_and_update().clone();
            self.answer(send, &committed).await?;
            if self.replies.is_empty() || progress.changed().await.is_err() {
                return Ok(());
            }
        }
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
