//! Traces, taken by an OTLP receiver of the test: a record is followed from its device over two nodes to its consumer, and a collector that is
//! away costs nothing but spans.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use motience_device::client::Lane;
use motience_proto::{
    model::ProducerId,
    wire::{Intent, Start},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::json;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::{
    harness::{LIMIT, Node, Shared, account, http, server, subscribe},
    quic::{acked, connect, event, record},
};

/// A span, and the node that sent it.
type Received = Arc<Mutex<Vec<(String, Span)>>>;

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name).and_then(|attribute| attribute.value.clone()?.value);
    match found {
        Some(Value::StringValue(text)) => text,
        other => panic!("{name}: {other:?}"),
    }
}

/// Takes OTLP over HTTP as a collector does.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let take = async |State(received): State<Received>, headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["api-key"], "k");
        for all in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
            let resource = all.resource.unwrap().attributes;
            assert_eq!(text(&resource, "service.name"), "motience-server");
            let node = text(&resource, "service.instance.id");
            received.lock().extend(all.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| (node.clone(), span)));
        }
    };
    let router = Router::new().route("/otlp/v1/traces", post(take)).with_state(Arc::clone(&received));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}/otlp", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (at, received)
}

/// Spans that the collector has, once `found` finds what it looks for.
async fn wait_for<T>(received: &Received, found: impl Fn(&[(String, Span)]) -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        let all = received.lock().clone();
        if let Some(found) = found(&all) {
            return found;
        }
        assert!(Instant::now() < deadline, "{all:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_record_is_followed_over_two_nodes() {
    let (shared, (at, received)) = (Shared::start().await, collector().await);
    let tracing =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", at.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k"), ("OTEL_TRACES_SAMPLER_ARG", "1")];
    let node = async |name| {
        let variables: Vec<_> = shared.variables().into_iter().chain(tracing).chain([("NODE_NAME", name)]).collect();
        Node::start(server(), &[], &variables).await
    };
    let (mut one, two) = (node("one").await, node("two").await);
    let ap = one.at.ap.clone().unwrap();
    let (producer, consumer) = (account(&ap, "producer", "p").await, account(&ap, "consumer", "c").await);
    subscribe(one.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = connect(&two, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    event(&mut egress).await.unwrap();
    event(&mut egress).await.unwrap();
    let mut device = connect(&one, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    device.send(Lane::Independent, record(1)).await.unwrap();
    acked(&mut device, 1..=1).await;
    event(&mut egress).await.unwrap();
    let stages = wait_for(&received, |all| {
        let delivery = all.iter().find(|(_, span)| span.name == "delivery")?;
        let same = all.iter().filter(|(_, span)| span.trace_id == delivery.1.trace_id);
        let stages: BTreeMap<String, (String, Span)> = same.map(|(node, span)| (span.name.clone(), (node.clone(), span.clone()))).collect();
        (stages.len() == 4).then_some(stages)
    })
    .await;
    let span = |name: &str| &stages[name].1;
    assert_eq!(span("device").parent_span_id, b"", "it is the root");
    for (child, parent) in [("ingest", "device"), ("append", "ingest"), ("delivery", "append")] {
        assert_eq!(span(child).parent_span_id, span(parent).span_id, "{child}");
        assert!(span(child).end_time_unix_nano >= span(child).start_time_unix_nano, "{child}");
    }
    let nodes: Vec<&str> = ["device", "ingest", "append", "delivery"].map(|name| stages[name].0.as_str()).into();
    assert_eq!(nodes, ["one", "one", "one", "two"]);
    assert_eq!(text(&span("ingest").attributes, "motience.device"), "d");
    assert_eq!(text(&span("delivery").attributes, "motience.producer"), producer.id.to_string());

    // A request that its client samples is a part of the client's trace, and linked with what it brings.
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let send = async |traceparent: &str| {
        let body = json!({"device_id": "h", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": 1}});
        let request = http().post(format!("{}/data", one.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token).json(&body);
        let answer = request.header("traceparent", traceparent).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.headers().get("traceparent").map(|told| told.to_str().unwrap().to_owned())
    };
    let told = send(parent).await.unwrap();
    assert!(told.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && told.ends_with("-01") && told != parent, "{told}");
    assert_eq!(send(&parent.replace("-01", "-00")).await, None, "its client does not sample it");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let request = wait_for(&received, |all| {
        let request = all.iter().find(|(_, span)| span.name == "request" && hex(&span.parent_span_id) == "00f067aa0ba902b7")?;
        let links = |span: &Span| span.links.iter().any(|link| link.span_id == request.1.span_id);
        all.iter().any(|(_, span)| span.name == "ingest" && links(span)).then(|| request.1.clone())
    })
    .await;
    assert_eq!(hex(&request.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(told.contains(&hex(&request.span_id)));
    assert_eq!(
        (text(&request.attributes, "http.route"), text(&request.attributes, "http.request.method")),
        ("/data".into(), "POST".into())
    );
    // Exemplars in the histograms, for a Prometheus that knows them.
    let scrape = async |accept: &str| {
        let url = format!("{}/metrics", one.at.operations.as_deref().unwrap());
        http().get(url).header("accept", accept).send().await.unwrap().text().await.unwrap()
    };
    let open = scrape("application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    let buckets = ["motience_append_seconds_bucket{", "motience_http_first_byte_seconds_bucket{"];
    assert!(buckets.iter().all(|name| open.lines().any(|line| line.starts_with(name) && line.contains(" # {trace_id="))), "{open}");
    assert!(open.ends_with("\n# EOF\n") && open.contains("\n# TYPE motience_records_appended counter\n"), "{open}");
    assert!(!scrape("text/plain").await.contains("trace_id="));
    // A connection has a span of its own once it has ended, also that of a node that ends.
    device.finish().await;
    one.signal("TERM");
    assert_eq!(one.ended().await, 0);
    wait_for(&received, |all| all.iter().find(|(node, span)| node == "one" && span.name == "quic").map(drop)).await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    // Connections are taken by the system, and nobody reads or answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", silent.local_addr().unwrap());
    let node = Node::embedded(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &at), ("OTEL_TRACES_SAMPLER_ARG", "1")]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let dropped = async || {
        let text = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("motience_trace_spans_dropped_total{")?.split_once("} "));
        lines.map(|(reason, count)| (reason.to_owned(), count.parse::<u64>().unwrap())).collect::<BTreeMap<_, _>>()
    };
    let (deadline, mut n) = (Instant::now() + LIMIT, 1);
    // More than has room in the queue while a batch waits, so that both reasons show.
    while dropped().await.values().any(|count| *count == 0) {
        assert!(Instant::now() < deadline, "{:?}", dropped().await);
        for _ in 0..4000 {
            device.send(Lane::Ordered, record(n)).await.unwrap();
            n += 1;
        }
        acked(&mut device, n - 4000..=n - 1).await;
    }
}
