//! A device that sends: its lanes are read until it leaves; what is in the log is acknowledged in ranges.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    model::RangeSet,
    relay::{Publisher, Refusal, Ticket},
    wire::{Ack, CloseCode, Frame, Refused, Welcome},
};
use quinn::Connection;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use tracing::debug;

use super::{
    Shared,
    connection::{Control, Ending, write},
    control::{WRITE_LIMIT, ended, expires_in, renew, unexpected},
    lanes,
};

/// Refusals that wait to be written; a device that sends more bad records than that is read no faster than it is told.
const REFUSALS: usize = 64;

/// What the lanes hand to the control stream.
pub(super) struct Outcomes {
    /// Submitted, not yet acknowledged.
    pending: Mutex<BTreeMap<Ticket, RangeSet>>,
    added: Notify,
    pub(super) refused: mpsc::Sender<Refused>,
}

impl Outcomes {
    /// These records are in the log once the ticket is.
    pub(super) fn submitted(&self, ticket: Ticket, records: RangeSet) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, records);
        self.added.notify_one();
    }

    /// Everything that is in the log by now.
    fn take(&self, up_to: Ticket) -> RangeSet {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let later = pending.split_off(&Ticket(up_to.0 + 1));
        let done = std::mem::replace(&mut *pending, later);
        let mut ranges = RangeSet::new();
        for range in done.values().flat_map(RangeSet::iter) {
            ranges.insert_range(range);
        }
        ranges
    }
}

pub(super) async fn serve(
    connection: &Connection,
    control: Control,
    grant: Grant,
    publisher: Publisher,
    shared: &Arc<Shared>,
) -> Result<(), Ending> {
    let (refused, refusals) = mpsc::channel(REFUSALS);
    let outcomes = Outcomes { pending: Mutex::default(), added: Notify::new(), refused };
    let publisher = Arc::new(publisher);
    tokio::select! {
        biased;
        ending = control_stream(control, grant, &publisher, &outcomes, refusals, shared) => ending,
        ending = lanes::read_all(connection, shared.backend.relay.limits().record, &publisher, &outcomes) => ending,
    }
}

async fn control_stream(
    control: Control,
    mut grant: Grant,
    publisher: &Publisher,
    outcomes: &Outcomes,
    mut refusals: mpsc::Receiver<Refused>,
    shared: &Shared,
) -> Result<(), Ending> {
    let Control { mut send, mut recv } = control;
    let backend = &shared.backend;
    let mut out = BytesMut::new();
    Frame::Welcome(Welcome {
        node: backend.node.clone(),
        fence: publisher.fence(),
        seen: publisher.seen(),
        max_record: backend.relay.limits().record as u64,
        credit: shared.config.credit,
        token_expires_in: expires_in(backend, &grant),
        durability: backend.relay.log().durability(),
        features: 0,
    })
    .encode(&mut out);
    let mut progress = publisher.progress();
    let mut drain_told = false;
    let over = backend.ended(&grant);
    tokio::pin!(over);
    loop {
        if !out.is_empty() {
            timeout(WRITE_LIMIT, write(&mut send, &mut out)).await.map_err(|_| Ending::Gone("the control stream is not read".into()))??;
        }
        tokio::select! {
            frame = recv.next() => match frame? {
                Some(Frame::TokenRefresh(refresh)) => {
                    renew(backend, &mut grant, &refresh, &mut out)?;
                    over.set(backend.ended(&grant));
                }
                Some(Frame::Skipped(skipped)) => skip(publisher, outcomes, skipped.ranges).await?,
                Some(Frame::Ping) => Frame::Pong.encode(&mut out),
                // The device waits for the last acknowledgements, which come in any case, and closes.
                Some(Frame::Done | Frame::Pong) => {}
                Some(other) => return Err(unexpected(&other)),
                None => return Err(Ending::Gone("the device closed its control stream".into())),
            },
            // Cannot fail: the publisher holds the sender.
            _ = progress.changed() => {}
            () = outcomes.added.notified() => {}
            Some(refused) = refusals.recv() => Frame::Refused(refused).encode(&mut out),
            () = &mut over => return Err(ended()),
            () = shared.draining.cancelled(), if !drain_told => {
                debug!("asking the device to leave");
                Frame::Drain.encode(&mut out);
                drain_told = true;
            }
        }
        let committed = progress.borrow_and_update().clone();
        let ranges = outcomes.take(committed.up_to);
        if !ranges.is_empty() {
            Frame::Ack(Ack { ranges }).encode(&mut out);
        }
        if let Some(error) = committed.error {
            return Err(motience_shared::relay::Error::from(error).into());
        }
    }
}

/// Numbers that the device has given up. They are acknowledged like records, once the log counts them as seen.
async fn skip(publisher: &Publisher, outcomes: &Outcomes, ranges: RangeSet) -> Result<(), Ending> {
    let numbers: u64 = ranges.iter().map(|range| (range.end() - range.start()).saturating_add(1)).fold(0, u64::saturating_add);
    metrics::counter!("motience_records_skipped_total").increment(numbers);
    let mut group = publisher.group();
    let submitted = match group.skip_all(&ranges) {
        Ok(()) => group.submit().await,
        Err(refusal) => Err(refusal),
    };
    match submitted {
        Ok(ticket) => {
            outcomes.submitted(ticket, ranges);
            Ok(())
        }
        Err(Refusal::Ended(e)) => Err(e.into()),
        Err(e) => Err(Ending::new(CloseCode::Protocol, e.to_string())),
    }
}
