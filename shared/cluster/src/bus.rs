//! Events as messages of the log's bus.

use motience_log::{Error, Log, Topic};

use crate::Event;

/// Why a message is no event: a node of another make sent it, or it is damaged. Such a message counts as lost.
#[derive(Debug, thiserror::Error)]
#[error("a message of the cluster bus cannot be read: {0}")]
pub struct Unreadable(#[from] serde_json::Error);

/// Tells every node, this one included.
pub async fn broadcast(log: &Log, event: &Event) -> Result<(), Error> {
    let message = serde_json::to_vec(event).map_err(|e| Error::Damaged(e.to_string()))?;
    let topic = if event.is_own_report() { Topic::Reports } else { Topic::Events };
    log.broadcast(topic, message.into()).await
}

/// The event that a message tells of.
pub fn read(message: &[u8]) -> Result<Event, Unreadable> {
    Ok(serde_json::from_slice(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectionReport, DeviceReport, NodeReport, PlanUseReport, StreamReport};
    use motience_proto::model::{ConsumerId, DeviceState, LogId, ProducerId, Role, Transport, UserId};

    /// Messages word for word as nodes of the last state send them: a node of either version reads those of the other.
    #[test]
    fn what_nodes_tell_each_other_reads_the_same_in_mixed_versions() {
        let node = NodeReport { node: "n".into(), started_ms: 7, durability: "redis".into(), records_in: 1, ..NodeReport::default() };
        let stream = StreamReport { producer: ProducerId(3), log: Some(LogId(4)), records: 5, millirate: 6, last_record_ms: 7 };
        let device = DeviceReport {
            producer: ProducerId(3),
            log: None,
            device: "d".into(),
            connected: true,
            transport: Transport::Quic,
            seen_ms: 1,
            records: 2,
            millirate: 3,
            loss_ppm: None,
            rtt_us: Some(4),
            backlog: None,
            address_changes: 0,
            clock: None,
            misdated: 0,
        };
        let connection = ConnectionReport {
            connection: "6f1c2a9b03d4e577".into(),
            user: UserId(3),
            username: "app".into(),
            role: Role::Consumer,
            device: None,
            transport: Transport::WebSocket,
            address: Some([10, 0, 0, 7].into()),
            since_ms: 5,
            records: 6,
        };
        let used = PlanUseReport { organisation: "3f9c".into(), connections: 2, millirates: [("bytes_per_second".into(), 1500)].into() };
        let (consumer, producer) = (ConsumerId(1), ProducerId(2));
        for (event, text) in [
            (Event::Subscribed { consumer, producer }, r#"{"type":"subscribed","consumer":1,"producer":2}"#),
            (Event::Unsubscribed { consumer, producer }, r#"{"type":"unsubscribed","consumer":1,"producer":2}"#),
            (Event::FamilyRevoked { family: "f".into() }, r#"{"type":"family_revoked","family":"f"}"#),
            (
                Event::UserRevoked { user: UserId(1), at_ms: Some(9), families: vec!["f".into()] },
                r#"{"type":"user_revoked","user":1,"at_ms":9,"families":["f"]}"#,
            ),
            (
                Event::ExternalEnded { user: UserId(1), at_ms: 9, kept_ms: Some(8) },
                r#"{"type":"external_ended","user":1,"at_ms":9,"kept_ms":8}"#,
            ),
            (
                Event::DeviceChanged { producer, device: "d".into(), state: DeviceState::Revoked, withheld: false },
                r#"{"type":"device_changed","producer":2,"device":"d","state":"revoked","withheld":false}"#,
            ),
            (
                Event::ConnectionsAsked { ask: 1, query: "app".into(), limit: 100 },
                r#"{"type":"connections_asked","ask":1,"query":"app","limit":100}"#,
            ),
            (
                Event::Connections { ask: 1, node: "n".into(), total: 2, connections: vec![connection] },
                r#"{"type":"connections","ask":1,"node":"n","total":2,"connections":[{"connection":"6f1c2a9b03d4e577","user":3,"username":"app","role":"consumer","device":null,"transport":"websocket","address":"10.0.0.7","since_ms":5,"records":6}]}"#,
            ),
            (
                Event::PlansUsed { node: "n".into(), used: vec![used] },
                r#"{"type":"plans_used","node":"n","used":[{"organisation":"3f9c","connections":2,"millirates":{"bytes_per_second":1500}}]}"#,
            ),
            (Event::ConnectionEnded { connection: "6f".into() }, r#"{"type":"connection_ended","connection":"6f"}"#),
            (Event::Restored, r#"{"type":"restored"}"#),
            (Event::Erased { producer }, r#"{"type":"erased","producer":2}"#),
            (
                Event::Streams { node: "n".into(), streams: vec![stream] },
                r#"{"type":"streams","node":"n","streams":[{"producer":3,"log":4,"records":5,"millirate":6,"last_record_ms":7}]}"#,
            ),
            (
                Event::Node { report: node },
                r#"{"type":"node","report":{"node":"n","version":"","roles":[],"started_ms":7,"durability":"redis","connections":{"quic":0,"webtransport":0,"producers":0,"consumers":0,"tunnels":0,"http3":0},"records_in":1,"records_out":0,"millirate_in":0,"millirate_out":0}}"#,
            ),
            (
                Event::Devices { node: "n".into(), devices: vec![device] },
                r#"{"type":"devices","node":"n","devices":[{"producer":3,"log":null,"device":"d","connected":true,"transport":"quic","seen_ms":1,"records":2,"millirate":3,"loss_ppm":null,"rtt_us":4,"backlog":null,"address_changes":0,"clock":null,"misdated":0}]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
            assert_eq!(read(text.as_bytes()).unwrap(), event);
        }
        // Of a later version, and of the first release.
        assert_eq!(read(br#"{"type":"eclipse","at":1}"#).unwrap(), Event::Unknown);
        assert_eq!(
            read(br#"{"type":"user_revoked","user":1}"#).unwrap(),
            Event::UserRevoked { user: UserId(1), at_ms: None, families: vec![] }
        );
        for other in ["", "{", "null", r#"{"family":"f"}"#] {
            assert!(read(other.as_bytes()).is_err(), "{other}");
        }
    }
}
