//! Traces: spans of a part of the connections, requests and records, for an exporter. Without an exporter there are none, and each place that
//! could make one reads one number.
//!
//! The ids of a record's trace follow from the record's id. So each node that has the record finds the trace by itself, takes the same decision
//! whether the record is sampled, and nothing of it has to travel with a record or be stored.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use tokio::sync::mpsc;

/// The part of all that is sampled, of 2^64; 0: nothing is.
static SAMPLED: AtomicU64 = AtomicU64::new(0);
static SPANS: OnceLock<mpsc::Sender<Span>> = OnceLock::new();
/// Connections since the process started.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

tokio::task_local! {
    static REQUEST: Context;
}

/// A span in a trace that is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Id of the trace.
    pub trace: u128,
    /// Id of the span.
    pub span: u64,
}

/// A client's `traceparent` (W3C Trace Context): its span, and whether it is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The client's span.
    pub context: Context,
    /// Whether the client samples it.
    pub is_sampled: bool,
}

/// Something that took a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its place.
    pub context: Context,
    /// The span that it is a part of; 0: none.
    pub parent: u64,
    /// Its name.
    pub name: &'static str,
    /// Its side of what it is a part of.
    pub kind: Kind,
    /// Its beginning.
    pub start: SystemTime,
    /// Its end.
    pub end: SystemTime,
    /// Facts of it.
    pub attributes: Vec<(&'static str, String)>,
    /// A span of another trace that brought it about.
    pub link: Option<Context>,
}

/// Side of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Within one node.
    Internal,
    /// Serves somebody.
    Server,
    /// Makes a record.
    Producer,
    /// Takes a record.
    Consumer,
}

/// Stages of a record, each of which has one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the record's own time until a node has it.
    Device = 1,
    /// From there until the log's writer takes it.
    Ingest = 2,
    /// The write to the log.
    Append = 3,
}

/// Begins traces: `part` of all is sampled, and at most `queue` spans wait for whoever takes them. `None`: they have begun before.
pub fn start(part: f64, queue: usize) -> Option<mpsc::Receiver<Span>> {
    let (sender, spans) = mpsc::channel(queue);
    SPANS.set(sender).ok()?;
    SAMPLED.store((part.clamp(0.0, 1.0) * u64::MAX as f64) as u64, Relaxed);
    Some(spans)
}

/// Whether anything may be sampled.
pub fn are_on() -> bool {
    SAMPLED.load(Relaxed) > 0
}

/// Hands a span to the exporter. One that has no room is dropped and counted.
pub fn emit(span: Span) {
    if SPANS.get().is_some_and(|spans| spans.try_send(span).is_err()) {
        metrics::counter!("motience_trace_spans_dropped_total", "reason" => "queue").increment(1);
    }
}

/// The trace of the record with this id, if it is sampled. Its id is the record's, mixed.
pub fn of_record(log: u64, producer_epoch: u64, seq: u64) -> Option<u128> {
    let sampled = SAMPLED.load(Relaxed);
    if sampled == 0 {
        return None;
    }
    let (high, low) = (mix(log ^ mix(producer_epoch ^ mix(seq))), mix(seq ^ mix(log ^ mix(producer_epoch))));
    // By other bits than the id's, so that ids of sampled traces look like any.
    (mix(high ^ low) <= sampled).then_some((u128::from(high) << 64) | u128::from(low.max(1)))
}

impl Stage {
    /// The stage's span in the trace of a record.
    pub fn context(self, trace: u128) -> Context {
        Context { trace, span: mix(trace as u64 ^ (self as u64).rotate_left(56)).max(1) }
    }
}

/// A trace by chance, where the part to be sampled says so.
fn by_chance() -> Option<u128> {
    let sampled = SAMPLED.load(Relaxed);
    (sampled > 0 && fastrand::u64(..) <= sampled).then(|| fastrand::u128(1..))
}

/// SplitMix64, the same in all versions.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A span that has begun, and ends when dropped.
#[derive(Debug)]
pub struct Open {
    context: Context,
    parent: u64,
    name: &'static str,
    kind: Kind,
    start: SystemTime,
    attributes: Vec<(&'static str, String)>,
}

impl Open {
    /// Begins a span, where it is sampled: as its parent is, or without one by chance.
    pub fn begin(name: &'static str, kind: Kind, parent: Option<Parent>) -> Option<Self> {
        if !are_on() {
            return None;
        }
        let trace = match parent {
            Some(parent) => parent.is_sampled.then_some(parent.context.trace)?,
            None => by_chance()?,
        };
        let context = Context { trace, span: fastrand::u64(1..) };
        let parent = parent.map_or(0, |parent| parent.context.span);
        Some(Self { context, parent, name, kind, start: SystemTime::now(), attributes: Vec::new() })
    }

    /// Its place.
    pub fn context(&self) -> Context {
        self.context
    }

    /// Notes something of it.
    pub fn note(&mut self, name: &'static str, value: &dyn fmt::Display) {
        self.attributes.push((name, value.to_string()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let attributes = std::mem::take(&mut self.attributes);
        let Self { context, parent, name, kind, start, .. } = *self;
        emit(Span { context, parent, name, kind, start, end: SystemTime::now(), attributes, link: None });
    }
}

/// One connection: its number, by which lines of the log are found, and its span.
#[derive(Debug)]
pub struct Connection {
    /// Its number in this process.
    pub number: u64,
    span: Option<Open>,
}

impl Connection {
    /// A connection of this kind that begins now.
    pub fn begin(name: &'static str) -> Self {
        Self { number: CONNECTIONS.fetch_add(1, Relaxed) + 1, span: Open::begin(name, Kind::Server, None) }
    }

    /// Id of its trace, if it is sampled, as logs have it.
    pub fn trace(&self) -> Option<String> {
        self.span.as_ref().map(|span| format!("{:032x}", span.context.trace))
    }

    /// Notes something of it.
    pub fn note(&mut self, name: &'static str, value: &dyn fmt::Display) {
        if let Some(span) = &mut self.span {
            span.note(name, value);
        }
    }
}

/// Does the work of a request; records that it submits are linked with its span.
pub async fn within<T>(request: Option<Context>, work: impl Future<Output = T>) -> T {
    match request {
        Some(request) => REQUEST.scope(request, work).await,
        None => work.await,
    }
}

/// The span of the request that is being answered, if it is sampled.
pub fn request() -> Option<Context> {
    REQUEST.try_with(|request| *request).ok()
}

impl Parent {
    /// Reads a `traceparent`; later versions may have more parts.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let is_good = is_hex(version, 2) && version != "ff" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        if !is_good || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let context = Context { trace: u128::from_str_radix(trace, 16).ok()?, span: u64::from_str_radix(span, 16).ok()? };
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (context.trace > 0 && context.span > 0).then_some(Self { context, is_sampled })
    }
}

impl fmt::Display for Context {
    /// As a `traceparent` of a sampled span.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_standard_has_it() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::parse(good).unwrap();
        assert!(parent.is_sampled && parent.context.to_string() == good);
        assert!(!Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap().is_sampled);
        assert!(Parent::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some(), "of a later version");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }

    /// One test for all that is of the whole process.
    #[tokio::test]
    async fn a_part_is_sampled_and_what_has_no_room_is_counted() {
        assert!(!are_on() && of_record(1, 2, 3).is_none() && Open::begin("request", Kind::Server, None).is_none());
        let mut spans = start(0.25, 2).unwrap();
        assert!(start(1.0, 2).is_none(), "once");
        let sampled = (0..10_000).filter(|seq| of_record(7, 8, *seq).is_some()).count();
        assert!((2200..2800).contains(&sampled), "{sampled}");
        let trace = (0..).find_map(|seq| of_record(7, 8, seq)).unwrap();
        let ids = [Stage::Device, Stage::Ingest, Stage::Append].map(|stage| stage.context(trace).span);
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2]);
        let parent = Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert!(Open::begin("request", Kind::Server, Some(Parent { is_sampled: false, ..parent })).is_none());
        let mut open = Open::begin("request", Kind::Server, Some(parent)).unwrap();
        open.note("status", &200);
        let context = open.context();
        assert_eq!((within(Some(context), async { request() }).await, request()), (Some(context), None));
        drop(open);
        let span = spans.recv().await.unwrap();
        assert_eq!(
            (span.context.trace, span.parent, span.attributes),
            (parent.context.trace, parent.context.span, vec![("status", "200".to_owned())])
        );
        crate::telemetry::start_metrics();
        (0..5).for_each(|_| drop(Open::begin("request", Kind::Server, Some(parent))));
        let text = crate::telemetry::render();
        assert!(text.contains("motience_trace_spans_dropped_total{reason=\"queue\"} 3"), "{text}");
    }
}
