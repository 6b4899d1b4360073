//! Connections that ask for nothing, or for one thing and stay.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{HOLD, crowd};
use crate::correctness::hostile::{
    raw,
    target::{Count, Target},
};

/// Silent connections on each port.
const SILENT: usize = 500;
/// Connections of HTTP/2.
const HTTP2: usize = 500;

/// Opens TCP connections on every port and says nothing.
pub(super) async fn silent(target: Arc<Target>, count: Count) {
    let ports = [&target.addresses.ap, &target.addresses.sm, &target.addresses.dsm, &target.addresses.wss1, &target.addresses.wss2];
    let ports: Arc<[String]> = ports.into_iter().cloned().collect();
    crowd(SILENT * ports.len(), move |n| {
        let (ports, count) = (Arc::clone(&ports), count.clone());
        async move {
            let mut stream = raw::tcp(&ports[n % ports.len()]).await?;
            count.add(1);
            // Until the node ends it.
            let _ = timeout(HOLD, stream.read_u8()).await;
            Ok(())
        }
    })
    .await;
}

/// Opens HTTP/2 connections, asks each for one thing, and keeps them.
pub(super) async fn http2(target: Arc<Target>, count: Count) {
    crowd(HTTP2, move |_| {
        let (target, count) = (Arc::clone(&target), count.clone());
        async move {
            let mut stream = raw::tcp(&target.addresses.dsm).await?;
            let mut bytes = raw::http2(65_535);
            bytes.extend(raw::http2_get(1, "/health", None));
            stream.write_all(&bytes).await?;
            count.add(1);
            let mut answers = vec![0; 1024];
            // Incoming bytes are thrown away; the node chooses the end.
            let _ = timeout(HOLD, async { while stream.read(&mut answers).await.is_ok_and(|n| n > 0) {} }).await;
            Ok(())
        }
    })
    .await;
}
