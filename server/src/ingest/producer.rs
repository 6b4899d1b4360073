//! A device that sends: its lanes are read until it leaves; what is in the log is acknowledged in ranges.

use std::sync::Arc;

use bytes::BytesMut;
use motience_auth::Standing;
use motience_limits::uploads::{self, Owner};
use motience_log as log;
use motience_proto::{
    model::RangeSet,
    wire::{Ack, Frame, Refused, ShapeAccepted, TokenAccepted, Welcome, features},
};
use motience_relay::{Intake, Presence, Publisher};
use motience_session::{CloseReason, renew};
use quinn::Connection;
use tokio::sync::mpsc;
use tracing::debug;

use super::{
    Shared,
    control::within,
    frames::{Control, write},
    lanes::{self, Entrance},
    latest,
    outcomes::Outcomes,
    shapes::Shapes,
};

/// Refusals that wait to be written; a device that sends more bad records than that is read no faster than it is told.
const REFUSALS: usize = 64;
/// What this server can.
const FEATURES: u64 = features::COMPACT | features::LATEST;

/// The device at the other end.
pub(super) struct Device {
    pub(super) publisher: Publisher,
    pub(super) presence: Presence,
    /// What it can.
    pub(super) offered: u64,
}

pub(super) async fn serve(
    connection: &Connection,
    control: Control,
    standing: &Standing,
    device: Device,
    shared: &Arc<Shared>,
) -> Result<(), CloseReason> {
    let Device { publisher, presence, offered } = device;
    let (refused, refusals) = mpsc::channel(REFUSALS);
    let outcomes = Outcomes::new(refused);
    let (features, max_record) = (offered & FEATURES, shared.backend.relay.limits().record);
    let shapes = Shapes::new(features);
    // All lanes are one upload: how many there are bounds what one connection holds.
    let upload = shared.backend.uploads.upload(&uploads::Connection::default(), Owner::Account(standing.grant().user));
    let entrance =
        Entrance { publisher: &publisher, presence: &presence, outcomes: &outcomes, shapes: &shapes, max_record, upload: &upload };
    tokio::select! {
        biased;
        // Whatever the newer one came by: QUIC or the gateway's tunnel.
        () = publisher.superseded() => Err(motience_relay::Error::from(log::Error::Fenced).into()),
        ending = control_stream(control, standing, features, entrance, refusals, shared) => ending,
        ending = lanes::read_all(connection, entrance) => ending,
        ending = latest::read_all(connection, entrance, &shared.backend), if features & features::LATEST != 0 => ending,
    }
}

async fn control_stream(
    control: Control,
    standing: &Standing,
    features: u64,
    entrance: Entrance<'_>,
    mut refusals: mpsc::Receiver<Refused>,
    shared: &Shared,
) -> Result<(), CloseReason> {
    let Entrance { publisher, presence, outcomes, shapes, .. } = entrance;
    let Control { mut send, mut recv } = control;
    let backend = &shared.backend;
    let mut out = BytesMut::new();
    Frame::Welcome(Welcome {
        node: backend.node.clone(),
        fence: publisher.fence(),
        seen: publisher.seen(),
        max_record: backend.relay.limits().record as u64,
        credit: shared.config.credit,
        token_expires_in: standing.expires_in(),
        durability: backend.relay.log().durability(),
        features,
    })
    .encode(&mut out);
    let mut progress = publisher.progress();
    let mut drain_told = false;
    loop {
        if !out.is_empty() {
            within(shared.config.write, write(&mut send, &mut out)).await?;
        }
        tokio::select! {
            frame = recv.next() => match frame? {
                Some(Frame::TokenRefresh(refresh)) => {
                    let expires_in = renew(backend, standing, &refresh.token).await?;
                    Frame::TokenAccepted(TokenAccepted { expires_in }).encode(&mut out);
                }
                Some(Frame::Skipped(skipped)) => skip(publisher, outcomes, &skipped.ranges).await?,
                Some(Frame::Shape(shape)) => Frame::ShapeAccepted(ShapeAccepted { id: shapes.learn(shape)? }).encode(&mut out),
                Some(Frame::Health(health)) => presence.health(health.loss_ppm, health.backlog),
                Some(Frame::Ping) => Frame::Pong.encode(&mut out),
                // The device waits for the last acknowledgements, which come in any case, and closes.
                Some(Frame::Done | Frame::Pong) => {}
                Some(other) => return Err(CloseReason::unexpected(&other)),
                None => return Err(CloseReason::gone("the device closed its control stream")),
            },
            // Cannot fail: the publisher holds the sender.
            _ = progress.changed() => {}
            () = outcomes.added.notified() => {}
            Some(refused) = refusals.recv() => Frame::Refused(refused).encode(&mut out),
            () = shared.draining.cancelled(), if !drain_told => {
                debug!("asking the device to leave");
                Frame::Drain.encode(&mut out);
                drain_told = true;
            }
        }
        let committed = progress.borrow_and_update().clone();
        let ranges = outcomes.take(committed.up_to);
        Ack::of(&ranges).for_each(|ack| Frame::Ack(ack).encode(&mut out));
        if let Some(error) = committed.error {
            return Err(motience_relay::Error::from(error).into());
        }
    }
}

/// Numbers that the device has given up.
async fn skip(publisher: &Publisher, outcomes: &Outcomes, ranges: &RangeSet) -> Result<(), CloseReason> {
    let mut group = Intake::new(publisher);
    group.skip(ranges);
    if let Some(submitted) = group.submit().await? {
        outcomes.submitted(submitted).await?;
    }
    Ok(())
}
