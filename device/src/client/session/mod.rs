//! One connection after `Welcome`: a handle, and private tasks that read and write. Over QUIC, or through a tunnel.
//!
//! The tasks never wait for each other: the control stream is read whatever the lanes do, so that acknowledgements
//! arrive while a lane is held up. Every queue is bounded; a reader of events that stops reading stops the server.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use motience_proto::{
    model::{Cursor, Order, ProducerEpoch, ProducerId, RangeSet, Selection, Transport},
    wire::{
        CloseCode, Confirm, Frame, Health, Hello, Intent, Limits, Record, Skipped, Start, Subscribe, TokenRefresh, Unsubscribe, VERSION,
        Welcome, features,
    },
};
use quinn::{Connection, VarInt};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use self::tasks::{accept_deliveries, broken, put, read_control, read_tunnel, write_control};
use super::{
    Config, Error, Lane,
    frames::Frames,
    lanes::{self, QUEUE, Uplink},
    tunnel::Tunnel,
};
use crate::link::{Meter, Report};

mod event;
mod tasks;

pub use event::Event;

/// Events that wait for [`Session::next`].
const EVENTS: usize = 64;
/// Control frames that wait to be written.
const CONTROL: usize = 256;
/// Longest time from the end of the control stream to the connection's close.
const LAST_WORD: Duration = Duration::from_secs(2);

/// An open connection. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    handle: Handle,
    welcome: Welcome,
    ordered: mpsc::Sender<Record>,
    independent: mpsc::Sender<Record>,
    control: mpsc::Sender<Frame>,
    /// Of a producer over QUIC.
    uplink: Option<Arc<Uplink>>,
    events: mpsc::Receiver<Event>,
    failure: Arc<OnceLock<Error>>,
    tasks: JoinSet<()>,
    early: usize,
}

#[derive(Debug)]
enum Handle {
    Quic(Connection),
    /// Cancelled to end the tunnel with a farewell.
    Tunnel(CancellationToken),
}

impl Session {
    /// Says `Hello` on a new connection, sends `early` behind it and waits for `Welcome`. The caller sets the time limit.
    pub(super) async fn open(
        connection: Connection,
        config: &Config,
        token: &SecretString,
        intent: Intent,
        epoch: ProducerEpoch,
        early: &[Record],
        meter: &Arc<Meter>,
    ) -> Result<Self, Error> {
        let (mut send, receive) = connection.open_bi().await?;
        let hello = Hello {
            version: VERSION,
            intent,
            token: token.expose_secret().to_owned(),
            device_id: config.device_id.as_str().to_owned(),
            epoch,
            features: config.features(features::LATEST | features::SELECTION | features::ORDER | features::CAUSES | features::COMPACT),
        };
        put(&mut send, &[Frame::Hello(hello)]).await?;
        if !early.is_empty() {
            lanes::send_once(&connection, early).await?;
        }
        let mut frames = Frames::new(receive, Limits::control());
        let welcome = match frames.next().await {
            Ok(Some(Frame::Welcome(welcome))) => welcome,
            Ok(Some(frame)) => return Err(broken(&connection, format!("{} instead of Welcome", frame.name()))),
            Ok(None) => return Err(connection.closed().await.into()),
            Err(Error::Protocol(reason)) => return Err(broken(&connection, reason)),
            Err(error) => return Err(error),
        };
        let (events_in, events) = mpsc::channel(EVENTS);
        let (control, control_out) = mpsc::channel(CONTROL);
        let (ordered, ordered_out) = mpsc::channel(QUEUE);
        let (independent, independent_out) = mpsc::channel(QUEUE);
        let uplink = (intent == Intent::Produce)
            .then(|| Uplink::new(connection.clone(), meter.clone(), config.link, welcome.features, control.clone()));
        let (handle, failure) = (Handle::Quic(connection.clone()), Arc::default());
        let mut session =
            Self { handle, welcome, ordered, independent, control, uplink, events, failure, tasks: JoinSet::new(), early: early.len() };
        session.spawn(read_control(connection.clone(), frames, session.uplink.clone(), events_in.clone()));
        session.spawn(write_control(send, control_out));
        match &session.uplink {
            Some(uplink) => {
                let lanes = [uplink.clone().write(Lane::Ordered, ordered_out), uplink.clone().write(Lane::Independent, independent_out)];
                lanes.into_iter().for_each(|lane| session.spawn(lane));
            }
            None => {
                // An entry is a record with `"producer_id":"…",` before it: within the room that the limit leaves.
                let limits = Limits::for_records(config.max_record);
                session.spawn(accept_deliveries(connection, limits, events_in));
            }
        }
        Ok(session)
    }

    /// The session of a tunnel.
    pub(super) fn through(tunnel: Tunnel) -> Self {
        let Tunnel { welcome, sink, source } = tunnel;
        let (events_in, events) = mpsc::channel(EVENTS);
        let (control, control_out) = mpsc::channel(CONTROL);
        let (ordered, ordered_out) = mpsc::channel(QUEUE);
        let (independent, independent_out) = mpsc::channel(QUEUE);
        let closing = CancellationToken::new();
        let handle = Handle::Tunnel(closing.clone());
        let mut session = Self {
            handle,
            welcome,
            ordered,
            independent,
            control,
            uplink: None,
            events,
            failure: Arc::default(),
            tasks: JoinSet::new(),
            early: 0,
        };
        session.spawn(read_tunnel(source, events_in));
        session.spawn(sink.run(control_out, [ordered_out, independent_out], closing));
        session
    }

    /// The server's answer to `Hello`.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// How many records went before `Welcome`; they are in flight.
    pub fn early(&self) -> usize {
        self.early
    }

    /// Queues a record if its lane has room; gives it back if not. Records of a connection that ended vanish:
    /// [`Session::next`] tells.
    pub fn try_send(&self, lane: Lane, record: Record) -> Result<(), Record> {
        match self.lane(lane).try_send(record) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(record)) => Err(record),
        }
    }

    /// Queues a record, waiting for room in its lane.
    pub async fn send(&self, lane: Lane, record: Record) -> Result<(), Error> {
        self.lane(lane).send(record).await.map_err(|_| self.end())
    }

    /// Waits until the lane has room. Cancel-safe.
    pub fn room(&self, lane: Lane) -> impl Future<Output = ()> + use<> {
        let queue = self.lane(lane).clone();
        async move {
            // An error says that the connection ended, of which `next` tells; waiting here would be for ever.
            let _ = queue.reserve().await;
        }
    }

    /// Offers a renewed token; `TokenAccepted` or a close follows.
    pub async fn renew(&self, token: &SecretString) -> Result<(), Error> {
        self.control(Frame::TokenRefresh(TokenRefresh { token: token.expose_secret().to_owned() })).await
    }

    /// Asks to follow a producer; `Followed` answers.
    pub async fn subscribe(&self, producer: ProducerId, start: Start, cursor_name: &str) -> Result<(), Error> {
        self.subscribe_with(producer, start, cursor_name, &Selection::default(), Order::Log).await
    }

    /// Asks to follow some of a producer's records, or all of them in another order; [`Event::Cursor`] then also says how far the
    /// follow has come. Only where the server [knows](Session::knows) both.
    pub async fn subscribe_with(
        &self,
        producer: ProducerId,
        start: Start,
        cursor_name: &str,
        selection: &Selection,
        order: Order,
    ) -> Result<(), Error> {
        let selection = if selection.is_empty() { String::new() } else { serde_json::to_string(selection).unwrap_or_default() };
        self.control(Frame::Subscribe(Subscribe { producer, start, cursor_name: cursor_name.to_owned(), selection, order })).await
    }

    /// Whether the server knows selections, where one is asked for, and device order, where that is.
    pub fn knows(&self, selection: &Selection, order: Order) -> bool {
        let knows = |feature| self.welcome.features & feature != 0;
        (selection.is_empty() || knows(features::SELECTION)) && (order == Order::Log || knows(features::ORDER))
    }

    /// Moves the named cursor of a follow.
    pub async fn confirm(&self, producer: ProducerId, cursor: Cursor) -> Result<(), Error> {
        self.control(Frame::Confirm(Confirm { producer, cursor })).await
    }

    /// Tells which numbers will never be sent; they are acknowledged like records.
    pub async fn skip(&self, ranges: RangeSet) -> Result<(), Error> {
        self.control(Frame::Skipped(Skipped { ranges })).await
    }

    /// Ends a follow.
    pub async fn unsubscribe(&self, producer: ProducerId) -> Result<(), Error> {
        self.control(Frame::Unsubscribe(Unsubscribe { producer })).await
    }

    /// The next event; once all are taken, why the connection ended. Cancel-safe.
    pub async fn next(&mut self) -> Result<Event, Error> {
        match self.events.recv().await {
            Some(event) => Ok(event),
            None => {
                // The reader may have ended a moment before the connection's own end is known.
                if let Handle::Quic(connection) = &self.handle
                    && self.failure.get().is_none()
                {
                    let end = connection.closed().await.into();
                    let _ = self.failure.set(end);
                }
                Err(self.end())
            }
        }
    }

    /// Sends a record that is neither numbered nor acknowledged, at once; whether it could be.
    pub fn send_latest(&self, json: Bytes) -> bool {
        self.uplink.as_ref().is_some_and(|uplink| uplink.send_latest(json))
    }

    /// Ends the redundancy of records that are acknowledged.
    pub fn acked(&self, ranges: &RangeSet) {
        if let Some(uplink) = &self.uplink {
            uplink.acked(ranges);
        }
    }

    /// Says how the device is, unless the control stream is held up: the next report is as good.
    pub fn report_health(&self, health: Health) {
        let _ = self.control.try_send(Frame::Health(health));
    }

    /// The share of packets that was lost lately; `None`: it is not known, or this is a tunnel.
    pub fn loss(&self) -> Option<f64> {
        self.uplink.as_ref().and_then(|uplink| uplink.loss())
    }

    /// Measured losses and the redundancy against them; `None` over the tunnel, and for a consumer.
    pub fn report(&self) -> Option<Report> {
        self.uplink.as_ref().map(|uplink| uplink.report())
    }

    /// The uplink over QUIC, for statistics beyond the session's life. Keeping it keeps the connection open.
    pub(crate) fn uplink(&self) -> Option<&Arc<Uplink>> {
        self.uplink.as_ref()
    }

    /// The transport.
    pub fn transport(&self) -> Transport {
        match &self.handle {
            Handle::Quic(_) => Transport::Quic,
            Handle::Tunnel(_) => Transport::Tunnel,
        }
    }

    /// The QUIC connection, for statistics beyond the session's life; none in a tunnel. Keeping it keeps it open.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match &self.handle {
            Handle::Quic(connection) => Some(connection),
            Handle::Tunnel(_) => None,
        }
    }

    /// Says that nothing more comes, and closes. Whatever was not acknowledged may be lost.
    pub async fn finish(mut self) {
        // The connection's end is what is wanted: an error here is no news.
        let _ = self.control(Frame::Done).await;
        if let Handle::Tunnel(closing) = &self.handle {
            closing.cancel();
            // The writer ends with the farewell, or the reader because of it.
            let _ = time::timeout(LAST_WORD, self.tasks.join_next()).await;
        }
        self.close(CloseCode::Done, "done");
    }

    /// Closes at once.
    pub fn close(mut self, code: CloseCode, reason: &str) {
        if let Handle::Quic(connection) = &self.handle {
            connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
        }
        self.tasks.abort_all();
    }

    fn lane(&self, lane: Lane) -> &mpsc::Sender<Record> {
        match lane {
            Lane::Ordered => &self.ordered,
            Lane::Independent => &self.independent,
        }
    }

    async fn control(&self, frame: Frame) -> Result<(), Error> {
        self.control.send(frame).await.map_err(|_| self.end())
    }

    fn end(&self) -> Error {
        let reason = || self.connection().and_then(Connection::close_reason).map_or(Error::Ended, Error::from);
        self.failure.get().cloned().unwrap_or_else(reason)
    }

    /// Runs a task of the session; its failure ends the connection, and is what [`Session::next`] then tells.
    fn spawn(&mut self, task: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let (connection, failure) = (self.connection().cloned(), self.failure.clone());
        self.tasks.spawn(async move {
            let Err(error) = task.await else { return };
            // The first failure is the cause, later ones its consequences. A close that the peer explained says more than
            // any of them.
            let reason = connection.as_ref().and_then(Connection::close_reason);
            let explained = reason.map(Error::from).filter(|e| !matches!(e, Error::Ended));
            let (code, reason) = match &error {
                Error::Protocol(reason) => (CloseCode::Protocol, reason.as_str()),
                _ => (CloseCode::Done, ""),
            };
            let _ = failure.set(explained.unwrap_or_else(|| error.clone()));
            if let Some(connection) = connection {
                connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
            }
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Handle::Quic(connection) = &self.handle {
            // Does nothing where it is closed already.
            connection.close(VarInt::from_u32(CloseCode::Done.number()), b"");
        }
    }
}
