//! Devices without end.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use motience_proto::{
    model::Seq,
    wire::{ALPN, Frame, Intent, Record},
};
use tokio::time::sleep;

use super::crowd;
use crate::correctness::hostile::{
    quic,
    target::{Count, Target},
};

/// Devices at once.
const AT_ONCE: usize = 4;
/// Records of each, with a hole before every one.
const RECORDS: u64 = 500;
/// How long a device stays for its records to be taken.
const STAY: Duration = Duration::from_millis(300);

/// Connects under a new name each time, and sends every other number: each name leaves a window full of holes.
pub(super) async fn scattered(target: Arc<Target>, count: Count) {
    crowd(AT_ONCE, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let connection = quic::connect(&target, ALPN, 16).await?;
            let name = format!("device-{:016x}", fastrand::u64(..));
            let _control = quic::hello(&connection, Intent::Produce, &target.producer_token, &name).await?;
            let mut stream = quic::ordered(&connection).await?;
            let frames = (1..=RECORDS).map(|n| {
                let mut json = String::new();
                // Writing to memory cannot fail.
                let _ = write!(json, r#"{{"device_id":"{name}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
                Frame::Record(Record { seq: Seq(2 * n), json: json.into() })
            });
            stream.write_all(&quic::encoded(frames)).await?;
            count.add(1);
            sleep(STAY).await;
            Ok(())
        }
    })
    .await;
}
