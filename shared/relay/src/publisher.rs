//! Publisher: one sender of one producer, with the right to append to that producer's log.
//!
//! In: records of one session, with their sequence numbers.
//! Out: checked records that the log does not have, and a ticket that says when they are in it.
//! Next: `shared/relay/src/appender.rs`: the write, by whoever takes the turn of the queue.

use std::{
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use motience_limits::quota::{Exceeded, Quota, Unit};
use motience_log::{Sender, SessionName};
use motience_mutation::Mutation;
use motience_proto::model::{Fence, LogKey, ProducerEpoch, ProducerId, RangeSet, Seq, record, times::ClockFault};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Relay, appender,
    queue::{NoSlot, Queue, QueuedRecord, Slot, Submission},
    session::{Committed, Session, Ticket},
    traces,
};

/// Why a record is not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// No record; sending it again changes nothing.
    #[error(transparent)]
    Invalid(#[from] record::Invalid),
    /// Too many records are missing between those that arrived.
    #[error("more than {0} separate runs of sequence numbers")]
    TooScattered(usize),
    /// The sender's session has ended.
    #[error(transparent)]
    Ended(#[from] Error),
}

/// One sender. Dropping it lets what was submitted be written and ends the session.
pub struct Publisher {
    session: Arc<Session>,
    relay: Relay,
    queue: Arc<Queue>,
    submitted: Mutex<Sent>,
    /// Device that the sender is, if it is one: its records are of no other.
    device: Option<Arc<str>>,
    /// Set if the last group had a time that cannot be right.
    misdated: AtomicBool,
    /// The rates of its account's plan, and how long a group waits for them.
    quota: Arc<Quota>,
    patience: Duration,
}

/// Submissions of a sender so far.
#[derive(Default)]
struct Sent {
    seen: RangeSet,
    /// Records are numbered here for senders that do not number them.
    next_seq: u64,
    tickets: u64,
}

impl Publisher {
    pub(super) async fn open(relay: &Relay, key: LogKey, name: SessionName, producer_epoch: ProducerEpoch) -> Result<Self, Error> {
        if relay.0.stop.is_cancelled() {
            return Err(Error::Closed);
        }
        let sender = Sender { name, producer_epoch, owner: fastrand::u64(..) };
        let mut opened = relay.0.log.open(key, &sender).await?;
        if Mutation::SkipDedupWindow.is_on() {
            opened.seen = RangeSet::new();
        }
        let submitted = Sent { next_seq: opened.seen.max().unwrap_or(0) + 1, seen: opened.seen.clone(), tickets: 0 };
        let session = Session {
            key,
            sender,
            state: Mutex::new(opened),
            committed: watch::Sender::new(Committed::default()),
            superseded: CancellationToken::new(),
        };
        let queue = relay.0.queues.of(key, &relay.0.limits, &relay.0.tasks);
        let session = Arc::new(session);
        relay.0.sessions.enter(&session);
        let device = session.sender.name.device_id().map(Arc::from);
        Ok(Self {
            session,
            relay: relay.clone(),
            queue,
            submitted: Mutex::new(submitted),
            device,
            misdated: AtomicBool::new(false),
            quota: relay.0.permits.quotas().of(key.producer.user()),
            patience: Duration::ZERO,
        })
    }

    /// Has a group that goes beyond the rate of its account's plan wait so long before it fails.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Says which device an ephemeral sender is: its records are of no other.
    #[must_use]
    pub fn of_device(mut self, device: &str) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Device that the sender is, if it is one.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Fault of a device's clock, by the time of a record.
    pub fn clock_fault(&self, time: OffsetDateTime) -> Option<ClockFault> {
        ClockFault::of(time, self.relay.0.clock.now(), self.relay.0.limits.ahead)
    }

    /// Checks a record that comes whole, whose it is, and that its device may speak.
    fn check_record<'r>(&self, json: &'r [u8]) -> Result<record::Checked<'r>, record::Invalid> {
        let checked = record::check(json, self.relay.0.limits.record)?;
        self.relay.0.devices.check(self.producer(), &checked.device)?;
        match &self.device {
            Some(own) if self.relay.0.limits.strict_native && **own != *checked.device => {
                Err(record::Invalid::WrongDevice { own: own.as_ref().to_owned() })
            }
            _ => Ok(checked),
        }
    }

    /// The fence this connection holds.
    pub fn fence(&self) -> Fence {
        self.session.state.lock().fence
    }

    /// Records of this epoch that are in the log.
    pub fn seen(&self) -> RangeSet {
        self.session.state.lock().seen.clone()
    }

    /// Producer whose log it appends to.
    pub fn producer(&self) -> ProducerId {
        self.session.key.producer
    }

    /// The log it appends to.
    pub fn log_key(&self) -> LogKey {
        self.session.key
    }

    /// Begins a group: the records that one read brought, submitted together.
    pub fn group(&self) -> Group<'_> {
        Group { publisher: self, records: Vec::new(), skipped: RangeSet::new(), bytes: 0, misdated: 0, fault: None }
    }

    /// Submits one record that has no number of its own. Waits while the log is behind.
    pub async fn submit(&self, json: Bytes) -> Result<Ticket, Refusal> {
        let mut group = self.group();
        group.date(self.check_record(&json)?.time);
        group.push_unnumbered(None, json);
        Ok(group.submit().await?)
    }

    /// Submits one record without a number, unless the log is behind: says whether the record was taken.
    pub fn try_submit(&self, json: Bytes) -> Result<bool, Refusal> {
        let mut group = self.group();
        group.date(self.check_record(&json)?.time);
        group.push_unnumbered(None, json);
        Ok(group.try_submit()?.is_some())
    }

    /// Follows how far this sender's submissions have come.
    pub fn progress(&self) -> watch::Receiver<Committed> {
        self.session.committed.subscribe()
    }

    /// Has a device's clock noticed, where something is wrong with it or was.
    fn note_clock(&self, records: usize, misdated: u64, fault: Option<ClockFault>) {
        let Some(device) = &self.device else { return };
        if records > 0 && (self.misdated.swap(fault.is_some(), Relaxed) || misdated > 0) {
            let devices = &self.relay.0.reports.devices;
            devices.dated(self.session.key, device, motience_proto::model::Transport::Quic, fault, misdated);
        }
    }

    /// Says if these numbers leave no more holes than a sender may have. A number that fills a hole or lengthens a run is taken, so that one
    /// with too many comes down.
    fn has_room(&self, seen: &RangeSet, numbers: &RangeInclusive<u64>) -> bool {
        let has_room = seen.ranges() < self.relay.0.limits.ranges || seen.touches(numbers);
        if !has_room {
            metrics::counter!("motience_limited_total", "reason" => "scattered").increment(1);
        }
        has_room
    }

    /// Refuses a number that has no room.
    fn room_for(&self, seen: &RangeSet, seq: Seq) -> Result<(), Refusal> {
        if self.has_room(seen, &(seq.0..=seq.0)) { Ok(()) } else { Err(Refusal::TooScattered(self.relay.0.limits.ranges)) }
    }

    /// Takes a group out of the rates of its account's plan.
    async fn admit(&self, records: usize, bytes: usize) -> Result<(), Exceeded> {
        self.quota.admit(&[(Unit::Records, records as u64), (Unit::Bytes, bytes as u64)], self.patience).await
    }

    /// Fails if a submission can no longer come into the log.
    fn check(&self) -> Result<(), Error> {
        match &self.session.committed.borrow().error {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }

    /// Returns once a newer connection of the same device has come to this node: this one may close, as the log would fence
    /// its next write. Cancel-safe.
    pub async fn superseded(&self) {
        self.session.superseded.cancelled().await;
    }

    /// Waits until everything up to `ticket` is in the log.
    pub async fn committed(&self, ticket: Ticket) -> Result<(), Error> {
        let mut progress = self.progress();
        let committed = progress.wait_for(|c| c.up_to >= ticket || c.error.is_some()).await.map_err(|_| Error::Closed)?;
        match &committed.error {
            Some(error) if committed.up_to < ticket => Err(error.clone().into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.relay.0.sessions.leave(&self.session);
    }
}

impl Session {
    /// Says if this fence was raised after the other's, which can only be known within one epoch of the log.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        let place = |session: &Self| {
            let state = session.state.lock();
            (state.log_epoch, state.fence)
        };
        let ((log_epoch, fence), (other_epoch, other_fence)) = (place(self), place(other));
        log_epoch == other_epoch && fence > other_fence
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("producer", &self.session.key.producer)
            .field("sender", &self.session.sender.name)
            .finish_non_exhaustive()
    }
}

/// Records gathered from one read.
pub struct Group<'p> {
    publisher: &'p Publisher,
    records: Vec<QueuedRecord>,
    skipped: RangeSet,
    bytes: usize,
    /// Records of a device whose time cannot be right, and what is wrong with that of the last record.
    misdated: u64,
    fault: Option<ClockFault>,
}

impl Group<'_> {
    /// Adds a numbered record. One that was submitted before is left out, since its first submission counts; says whether it
    /// is a new one.
    pub fn push(&mut self, seq: Seq, json: Bytes) -> Result<bool, Refusal> {
        let time = self.publisher.check_record(&json)?.time;
        let mut submitted = self.publisher.submitted.lock();
        self.publisher.room_for(&submitted.seen, seq)?;
        let new = submitted.seen.insert(seq.0) || Mutation::SkipDedupWindow.is_on();
        if new {
            self.bytes += json.len();
            self.records.push(QueuedRecord { seq, id: None, json });
        }
        drop(submitted);
        if new {
            self.date(time);
        }
        Ok(new)
    }

    /// Notes a record's time, where it is a device's that is known: what comes of many says itself whose it is.
    fn date(&mut self, time: OffsetDateTime) {
        if self.publisher.device.is_some() {
            self.fault = self.publisher.clock_fault(time);
            self.misdated += u64::from(self.fault.is_some());
        }
    }

    /// Counts `seq` as seen without a record, because it is refused: its hole in the dedup window would stay for ever.
    pub fn skip(&mut self, seq: Seq) -> Result<(), Refusal> {
        let mut submitted = self.publisher.submitted.lock();
        self.publisher.room_for(&submitted.seen, seq)?;
        if submitted.seen.insert(seq.0) {
            self.skipped.insert(seq.0);
        }
        Ok(())
    }

    /// Counts numbers as seen whose records will never come, and returns them. Numbers that would leave more holes than a sender may have
    /// are left out: the sender names them again later, when it has sent the records between.
    pub fn skip_all(&mut self, ranges: &RangeSet) -> RangeSet {
        let mut submitted = self.publisher.submitted.lock();
        let mut taken = RangeSet::new();
        for range in ranges.iter() {
            if !self.publisher.has_room(&submitted.seen, &range) {
                continue;
            }
            submitted.seen.insert_range(range.clone());
            self.skipped.insert_range(range.clone());
            taken.insert_range(range);
        }
        taken
    }

    /// Bytes gathered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a record that [`record::admit`] has let in, under the sender's next number. A second record of a client's own
    /// `id` is acknowledged and not written.
    pub fn push_unnumbered(&mut self, id: Option<&str>, json: Bytes) {
        let mut submitted = self.publisher.submitted.lock();
        let seq = submitted.next_seq;
        submitted.next_seq += 1;
        submitted.seen.insert(seq);
        self.bytes += json.len();
        self.records.push(QueuedRecord { seq: Seq(seq), id: id.map(Arc::from), json });
    }

    /// Hands the group to the log's writer. Waits while it is behind: that is the sender's back-pressure.
    ///
    /// The ticket stands for everything this sender has submitted so far. A group that the account's plan does not allow is not submitted; its
    /// numbers count as submitted here, so that the session has to end.
    pub async fn submit(self) -> Result<Ticket, Error> {
        self.publisher.check()?;
        self.publisher.admit(self.records.len(), self.bytes).await?;
        let slot = self.publisher.queue.slot(self.bytes).await.ok_or(Error::Closed)?;
        Ok(self.send(slot))
    }

    /// Hands the group to the log's writer, unless it is behind: for records that are worth nothing later.
    pub fn try_submit(self) -> Result<Option<Ticket>, Error> {
        self.publisher.check()?;
        match self.publisher.queue.try_slot(self.bytes) {
            Ok(_)
                if self.publisher.quota.take(&[(Unit::Records, self.records.len() as u64), (Unit::Bytes, self.bytes as u64)]).is_err() =>
            {
                Ok(None)
            }
            Ok(slot) => Ok(Some(self.send(slot))),
            Err(NoSlot::Full) => Ok(None),
            Err(NoSlot::Closed) => Err(Error::Closed),
        }
    }

    fn send(self, slot: Slot) -> Ticket {
        self.publisher.note_clock(self.records.len(), self.misdated, self.fault);
        // Drawn and queued under one lock, so that tickets rise in the order of the queue.
        let mut submitted = self.publisher.submitted.lock();
        submitted.tickets += 1;
        let ticket = Ticket(submitted.tickets);
        let turn = self.publisher.queue.push(slot, |room| Submission {
            session: Arc::clone(&self.publisher.session),
            records: self.records,
            skipped: self.skipped,
            bytes: self.bytes,
            ticket,
            arrival: traces::arrival(),
            _room: room,
        });
        drop(submitted);
        if let Some(turn) = turn {
            appender::run(&self.publisher.relay, turn);
        }
        ticket
    }
}
