//! A tunnel past its Hello: each message is one group of records; what is in the log is acknowledged in ranges.

use std::mem;

use bytes::BytesMut;
use motience_auth::Standing;
use motience_proto::wire::{
    Ack, Frame, Limits, Record, Shape, ShapeAccepted, TokenAccepted, TokenRefresh, Welcome, compact::Decoder, features,
};
use motience_relay::{self as relay, Committed, Intake, Pending, Presence, Publisher};
use motience_session::{CloseReason, renew};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::{Shared, not_binary};
use crate::socket::{Heard, Socket};

/// How long a device has to finish and leave when the node drains, before it is cut.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Groups that may wait for the log; a device further ahead is read no faster than they go.
const MAX_PENDING: usize = 64;
/// Bytes of messages read, or of records, that are handed on as one group. A compact record is far longer than its frame.
const GROUP: usize = 256 * 1024;
/// Bytes gathered before they are written, however much of the message is left.
const WRITE: usize = 64 * 1024;

/// One device's tunnel.
pub(super) struct Session<'s> {
    socket: &'s mut Socket,
    shared: &'s Shared,
    publisher: &'s Publisher,
    presence: Presence,
    standing: &'s Standing,
    limits: Limits,
    /// The shapes of compact records, where the device offered them.
    shapes: Option<Decoder>,
    pending: Pending,
    /// Frames on their way down.
    out: BytesMut,
}

impl<'s> Session<'s> {
    pub(super) fn new(
        socket: &'s mut Socket,
        shared: &'s Shared,
        publisher: &'s Publisher,
        presence: Presence,
        standing: &'s Standing,
        offered: u64,
    ) -> Self {
        let records = Limits::for_records(shared.backend.relay.limits().record);
        let limits = Limits { frame: records.frame.max(Limits::control().frame) };
        let shapes = (offered & features::COMPACT != 0).then(Decoder::new);
        Self { socket, shared, publisher, presence, standing, limits, shapes, pending: Pending::default(), out: BytesMut::new() }
    }

    /// Runs until the device leaves or has to. `rest`: what came in one message with its Hello.
    pub(super) async fn run(mut self, rest: BytesMut) -> Result<(), CloseReason> {
        let soft = self.shared.shutdown.soft();
        let mut progress = self.publisher.progress();
        let mut cut = None;
        self.welcome();
        self.take(rest).await?;
        loop {
            self.write().await?;
            tokio::select! {
                biased;
                // Cannot fail: the publisher holds the sender.
                _ = progress.changed() => {}
                () = soft.cancelled(), if cut.is_none() => {
                    debug!("asking the device to leave");
                    Frame::Drain.encode(&mut self.out);
                    cut = Some(Instant::now() + DRAIN_LIMIT);
                }
                () = sleep_until(cut.unwrap_or_else(Instant::now)), if cut.is_some() => return Err(CloseReason::Draining),
                heard = self.socket.hear(), if self.pending.len() < MAX_PENDING => match heard? {
                    Heard::Binary(message) => self.take(BytesMut::from(message)).await?,
                    Heard::Text(_) => return Err(not_binary()),
                    Heard::Life => {}
                },
            }
            let committed = progress.borrow_and_update().clone();
            self.acknowledge(&committed);
            if let Some(error) = committed.error {
                self.write().await?;
                return Err(relay::Error::from(error).into());
            }
        }
    }

    fn welcome(&mut self) {
        let backend = &self.shared.backend;
        let welcome = Welcome {
            node: backend.node.clone(),
            fence: self.publisher.fence(),
            seen: self.publisher.seen(),
            max_record: backend.relay.limits().record as u64,
            credit: self.shared.config.credit,
            token_expires_in: self.standing.expires_in(),
            durability: backend.relay.log().durability(),
            features: if self.shapes.is_some() { features::COMPACT } else { 0 },
        };
        Frame::Welcome(welcome).encode(&mut self.out);
    }

    /// Takes a message and those that have come behind it, as one group.
    async fn take(&mut self, first: BytesMut) -> Result<(), CloseReason> {
        let mut group = Intake::new(self.publisher);
        let (mut next, mut bytes) = (Some(Ok(Heard::Binary(first.freeze()))), 0);
        let mut goodbye = None;
        while let Some(heard) = next {
            match heard {
                Ok(Heard::Binary(message)) => {
                    bytes += message.len();
                    self.read(BytesMut::from(message), &mut group).await?;
                }
                Ok(Heard::Life) => {}
                Ok(Heard::Text(_)) => return Err(not_binary()),
                Err(why) => {
                    goodbye = Some(why);
                    break;
                }
            }
            next = if bytes < GROUP { self.socket.heard() } else { None };
        }
        self.hand_on(group).await?;
        goodbye.map_or(Ok(()), Err)
    }

    /// Reads one message's frames.
    async fn read(&mut self, mut message: BytesMut, group: &mut Intake<'s>) -> Result<(), CloseReason> {
        while let Some(frame) = Frame::decode(&mut message, self.limits)? {
            match frame {
                Frame::Record(record) => group.record(record)?,
                Frame::Compact(record) => {
                    let limit = self.shared.backend.relay.limits().record;
                    let json = self.shapes()?.expand(&record, limit)?;
                    group.record(Record { seq: record.seq, json })?;
                }
                Frame::Shape(shape) => self.learn(shape)?,
                Frame::Skipped(skipped) => group.skip(&skipped.ranges),
                Frame::TokenRefresh(refresh) => self.renew(&refresh).await?,
                Frame::Health(health) => self.presence.health(health.loss_ppm, health.backlog),
                Frame::Ping => {
                    self.socket.spend()?;
                    Frame::Pong.encode(&mut self.out);
                }
                // The device waits for the last acknowledgements, which come in any case, and closes.
                Frame::Done | Frame::Pong => {}
                other => return Err(CloseReason::unexpected(&other)),
            }
            if group.bytes() >= GROUP {
                let full = mem::replace(group, Intake::new(self.publisher));
                self.hand_on(full).await?;
            }
            if self.out.len() >= WRITE {
                self.write().await?;
            }
        }
        if message.is_empty() { Ok(()) } else { Err(CloseReason::protocol("a message ends within a frame")) }
    }

    async fn hand_on(&mut self, group: Intake<'s>) -> Result<(), CloseReason> {
        self.shared.tunnels.count(group.records(), group.bytes() as u64);
        self.presence.seen(group.new_records());
        let Some(submitted) = group.submit().await? else { return Ok(()) };
        self.pending.add(submitted.ticket, submitted.numbers);
        submitted.refused.into_iter().for_each(|refused| Frame::Refused(refused).encode(&mut self.out));
        Ok(())
    }

    fn shapes(&mut self) -> Result<&mut Decoder, CloseReason> {
        self.shapes.as_mut().ok_or_else(|| CloseReason::protocol("compact records were not agreed on"))
    }

    fn learn(&mut self, shape: Shape) -> Result<(), CloseReason> {
        let id = self.shapes()?.add(shape)?;
        Frame::ShapeAccepted(ShapeAccepted { id }).encode(&mut self.out);
        Ok(())
    }

    async fn renew(&mut self, refresh: &TokenRefresh) -> Result<(), CloseReason> {
        let expires_in = renew(&self.shared.backend, self.standing, &refresh.token).await?;
        Frame::TokenAccepted(TokenAccepted { expires_in }).encode(&mut self.out);
        Ok(())
    }

    fn acknowledge(&mut self, committed: &Committed) {
        let ranges = self.pending.take(committed.up_to);
        Ack::of(&ranges).for_each(|ack| Frame::Ack(ack).encode(&mut self.out));
    }

    /// Writes the frames that wait, as one message.
    async fn write(&mut self) -> Result<(), CloseReason> {
        if !self.out.is_empty() {
            self.socket.send(Message::Binary(self.out.split().freeze())).await?;
        }
        Ok(())
    }
}
