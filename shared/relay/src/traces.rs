//! Spans of sampled records: device, ingest and append on the node that takes a record in, delivery on each that gives it out.

use std::time::SystemTime;

use motience_log::Batch;
use motience_proto::model::{LogKey, Offset, ProducerEpoch, Seq, record::Parts};
use motience_runtime::{
    histogram,
    telemetry::Histogram,
    traces::{self, Context, Kind, Span, Stage},
};

/// When a group came in, and the request that brought it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    at: SystemTime,
    request: Option<Context>,
}

/// Notes the arrival of a group, where any record may be sampled.
pub(super) fn arrival() -> Option<Arrival> {
    traces::are_on().then(|| Arrival { at: SystemTime::now(), request: traces::request() })
}

fn trace_of(key: LogKey, producer_epoch: ProducerEpoch, seq: Seq) -> Option<u128> {
    traces::of_record(key.log.0, producer_epoch.0, seq.0)
}

/// Emits the spans of a sender's records that came together, in a write that began then and has just ended.
pub(super) fn appended<'r>(
    (key, producer_epoch): (LogKey, ProducerEpoch),
    arrival: Arrival,
    began: SystemTime,
    records: impl Iterator<Item = (Seq, &'r [u8])>,
    times: &Histogram,
) {
    let now = SystemTime::now();
    for (seq, json) in records {
        let Some(trace) = trace_of(key, producer_epoch, seq) else { continue };
        let parts = Parts::of(json).ok();
        let made = parts.as_ref().and_then(|parts| parts.time().ok()).map_or(arrival.at, SystemTime::from);
        let device = parts.map(|parts| parts.device_id.to_string()).unwrap_or_default();
        let attributes = vec![("motience.producer", key.producer.to_string()), ("motience.device", device)];
        let [device, ingest] = [Stage::Device, Stage::Ingest].map(|stage| stage.context(trace).span);
        times.show(now.duration_since(began).unwrap_or_default(), trace);
        for (stage, parent, name, kind, start, end, link) in [
            (Stage::Device, 0, "device", Kind::Producer, made.min(arrival.at), arrival.at, None),
            (Stage::Ingest, device, "ingest", Kind::Server, arrival.at, began, arrival.request),
            (Stage::Append, ingest, "append", Kind::Internal, began, now, None),
        ] {
            traces::emit(Span { context: stage.context(trace), parent, name, kind, start, end, attributes: attributes.clone(), link });
        }
    }
}

/// Emits a span for each sampled record of a batch that goes out to a consumer: from the log until there.
pub(super) fn delivered(batch: &Batch, after: Offset) {
    let now = SystemTime::now();
    let start = batch.received.map_or(now, SystemTime::from);
    for (_, record_id, _) in batch.after(after) {
        let Some(trace) = trace_of(batch.key(), record_id.producer_epoch, record_id.seq) else { continue };
        histogram!("motience_delivery_seconds").show(now.duration_since(start).unwrap_or_default(), trace);
        traces::emit(Span {
            // Each consumer's is another.
            context: Context { trace, span: fastrand::u64(1..) },
            parent: Stage::Append.context(trace).span,
            name: "delivery",
            kind: Kind::Consumer,
            start,
            end: now,
            attributes: vec![("motience.producer", batch.producer.to_string())],
            link: None,
        });
    }
}
