//! The QUIC settings in quinn's terms.

use std::{sync::Arc, time::Duration};

use motience_proto::wire::Intent;
use quinn::{
    AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt,
    congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig},
};

use super::QuicSettings;
use crate::link::{self, Controller, DelayGatedConfig, Meter, Observed};

/// Packets that the server may leave unacknowledged, a few more than it acknowledges the records of at once. A gap is acknowledged at
/// once in any case.
const ACK_AFTER: u32 = 10;
/// Longest that the server may hold an acknowledgement back, in round trips of a known link: a little longer than its own acknowledgements of records wait,
/// which carry QUIC's along.
const ACK_DELAY: f64 = 0.5;
/// Bounds of that delay; the longer one is QUIC's own (RFC 9000, section 18.2), and holds where nothing is known.
const ACK_DELAYS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(25)];
/// Bytes of datagrams that wait for the network; the oldest go first.
const DATAGRAMS: usize = 64 * 1024;
/// Bounds of what is believed of a round-trip time before there is one.
const INITIAL_RTT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Builds the transport of a connection for `intent`.
pub(super) fn config(settings: &QuicSettings, intent: Intent, link: &link::Settings, meter: &Arc<Meter>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(settings.keep_alive))
        // A time that a varint cannot hold means for ever, as it would in practice.
        .max_idle_timeout(IdleTimeout::try_from(settings.idle_timeout).ok())
        .stream_receive_window(VarInt::from_u32(settings.stream_window))
        .receive_window(VarInt::from_u32(settings.window))
        .send_window(settings.send_window)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(match intent {
            Intent::Produce => 0,
            Intent::Consume => settings.max_deliveries,
        }))
        // None come; but without a buffer for them quinn sends none either.
        .datagram_receive_buffer_size(Some(0))
        .datagram_send_buffer_size(DATAGRAMS)
        .enable_segmentation_offload(settings.gso);
    let known = meter.link().rtt;
    if let Some(rtt) = known {
        // Twice, since it may have grown: a probe too early costs more than one a little late.
        config.initial_rtt((rtt * 2).clamp(INITIAL_RTT[0], INITIAL_RTT[1]));
    }
    if intent == Intent::Produce {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER))
            .max_ack_delay(Some(known.map_or(ACK_DELAYS[1], |rtt| rtt.mul_f64(ACK_DELAY).clamp(ACK_DELAYS[0], ACK_DELAYS[1]))));
        config.ack_frequency_config(Some(acks));
    }
    match link.controller {
        Controller::DelayGated => watch(&mut config, DelayGatedConfig::default(), meter),
        Controller::Bbr => watch(&mut config, BbrConfig::default(), meter),
        Controller::Cubic => watch(&mut config, CubicConfig::default(), meter),
        Controller::NewReno => watch(&mut config, NewRenoConfig::default(), meter),
    }
    Arc::new(config)
}

fn watch<F: ControllerFactory + Send + Sync + 'static>(config: &mut TransportConfig, inner: F, meter: &Arc<Meter>) {
    config.congestion_controller_factory(Arc::new(Observed { inner: Arc::new(inner), meter: meter.clone() }));
}
