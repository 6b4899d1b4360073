//! The QUIC settings in quinn's terms.

use std::sync::Arc;

use motience_shared::wire::Intent;
use quinn::{IdleTimeout, TransportConfig, VarInt, congestion::BbrConfig};

use super::Transport;

/// Builds the transport of a connection for `intent`.
pub(super) fn config(settings: &Transport, intent: Intent) -> Arc<TransportConfig> {
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
            Intent::Consume => settings.max_feeds,
        }))
        .datagram_receive_buffer_size(None)
        // Loss is no sign of congestion on the links that devices have.
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .enable_segmentation_offload(settings.gso);
    Arc::new(config)
}
