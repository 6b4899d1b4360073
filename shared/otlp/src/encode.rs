//! Spans as a request of OTLP.

use std::time::{SystemTime, UNIX_EPOCH};

use motience_runtime::traces::{Kind, Span};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as Encoded,
        span::{Link, SpanKind},
    },
};
use prost::Message as _;

/// The bytes of a request with these spans, of this program and node.
pub(super) fn request(program: &str, node: &str, spans: Vec<Span>) -> Vec<u8> {
    let attributes = [("service.name", program), ("service.instance.id", node), ("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource { attributes: attributes.map(|(name, value)| attribute(name, value.to_owned())).into(), ..Resource::default() };
    let scope = InstrumentationScope { name: "motience".to_owned(), ..InstrumentationScope::default() };
    let scope = ScopeSpans { scope: Some(scope), spans: spans.into_iter().map(encoded).collect(), ..ScopeSpans::default() };
    let all = ResourceSpans { resource: Some(resource), scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec()
}

fn encoded(span: Span) -> Encoded {
    let Span { context, parent, name, kind, start, end, attributes, link } = span;
    let kind = match kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    };
    let link =
        link.map(|link| Link { trace_id: link.trace.to_be_bytes().into(), span_id: link.span.to_be_bytes().into(), ..Link::default() });
    Encoded {
        trace_id: context.trace.to_be_bytes().into(),
        span_id: context.span.to_be_bytes().into(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().into() },
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(start),
        // A clock that was set back, or a device's that is ahead.
        end_time_unix_nano: nanoseconds(end.max(start)),
        attributes: attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        links: link.into_iter().collect(),
        ..Encoded::default()
    }
}

fn attribute(name: &str, value: String) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value)) }), ..KeyValue::default() }
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
