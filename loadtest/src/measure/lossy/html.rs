//! The report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use super::{
    plan::{Condition, System},
    plot::{Axis, Series, svg},
    results::{Results, Summary},
};

/// The page's style; light and dark. The colours are those of Okabe and Ito, which the colour-blind tell apart.
const STYLE: &str = include_str!("report.css");
/// The smallest share that distributions show.
const RARE: f64 = 0.0005;

/// Writes the page.
pub(super) fn page(results: &Results) -> String {
    let mut body = String::new();
    // Writing to memory cannot fail.
    let _ = write!(body, "<header><p class=\"eyebrow\">Motience load test</p><h1>Records over lossy links</h1>{}</header>", lead(results));
    section(
        &mut body,
        "The tail, by loss",
        "Percentiles of the latency from when a record was due to its first arrival. Bars: 95 % confidence.",
        &tails(results),
    );
    section(
        &mut body,
        "How many take longer",
        "The share of all records that took longer than a time; lower and further left is better. Both axes are logarithmic.",
        &curves(results),
    );
    section(
        &mut body,
        "What it costs",
        "IP bytes on the wire for each record of about 150 bytes, both ways together, with headers, acknowledgements and repeats.",
        &costs(results),
    );
    let _ = write!(body, "<section><h2>What was claimed</h2>{}</section>", claims(results));
    let _ = write!(body, "<section><h2>All figures</h2>{}</section>", figures(results));
    let _ = write!(body, "<section class=\"prose\"><h2>How it was measured</h2>{}</section>", method(results));
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Motience: records over lossy links</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )
}

fn section(body: &mut String, title: &str, what: &str, plots: &str) {
    if !plots.is_empty() {
        let _ = write!(body, "<section><h2>{title}</h2><p class=\"what\">{what}</p><div class=\"plots\">{plots}</div></section>");
    }
}

fn figure(title: &str, drawing: &str) -> String {
    format!("<figure><figcaption>{title}</figcaption>{drawing}</figure>")
}

/// What a reader takes home: the ratios.
fn lead(results: &Results) -> String {
    let mut text = String::new();
    for condition in [Condition::Random(5), Condition::Bursts] {
        let p99 = |system| Some(results.find(system, condition, 100)?.at(99.0)?.value);
        if let (Some(ours), Some(mqtt)) = (p99(System::Independent), p99(System::Mqtt)) {
            let _ = write!(
                text,
                "<p class=\"lead\">With {}, 99 of 100 records arrive within <b>{ours:.0} ms</b> on Motience's independent lane and within {mqtt:.0} ms by MQTT QoS 1: \
                 <b>{:.1} times</b> {}. The link itself takes {:.0} ms.</p>",
                condition.title(),
                if mqtt >= ours { mqtt / ours } else { ours / mqtt },
                if mqtt >= ours { "sooner" } else { "later" },
                results.delay_ms
            );
        }
    }
    let clean = |system| results.find(system, Condition::Random(0), 100).map(Summary::bytes);
    if let (Some(ours), Some(mqtt)) = (clean(System::Independent), clean(System::Mqtt)) {
        let _ = write!(
            text,
            "<p class=\"lead\">Without loss a record costs <b>{ours:.0} bytes</b> on the wire, against {mqtt:.0} by MQTT over TLS.</p>"
        );
    }
    let short = results.claims.iter().filter(|c| !c.holds).count();
    let _ = match short {
        0 => write!(text, "<p class=\"lead\">All {} claims below hold in this run.</p>", results.claims.len()),
        _ => write!(text, "<p class=\"lead short\">{short} of {} claims below fall short in this run.</p>", results.claims.len()),
    };
    text
}

fn class(system: System) -> &'static str {
    match system {
        System::Independent => "independent",
        System::Ordered => "ordered",
        System::Latest => "latest",
        System::WebSocket => "websocket",
        System::Mqtt => "mqtt",
        System::Node => "node",
    }
}

/// The losses as places on an axis; bursts stand to the right, apart from the others.
fn losses(results: &Results) -> Axis {
    let conditions = results.conditions();
    let ticks = conditions.iter().enumerate().map(|(n, c)| {
        let text = match c {
            Condition::Random(p) => format!("{p} %"),
            Condition::Bursts => "bursts".into(),
        };
        (n as f64, text)
    });
    Axis { title: "packets lost each way".into(), low: -0.3, high: conditions.len() as f64 - 0.7, log: false, ticks: ticks.collect() }
}

/// A line for each system with at least one value at this rate.
fn by_loss(results: &Results, rate: u32, value: impl Fn(&Summary) -> Option<(f64, f64, f64)>) -> Vec<Series> {
    let conditions = results.conditions();
    let line = |system: System| {
        let (mut points, mut whiskers) = (Vec::new(), Vec::new());
        for (n, condition) in conditions.iter().enumerate() {
            if let Some((low, value, high)) = results.find(system, *condition, rate).and_then(&value) {
                points.push((n as f64, value));
                whiskers.push((low, high));
            }
        }
        (!points.is_empty()).then(|| Series { label: system.title().into(), class: class(system), points, whiskers, dots: true })
    };
    System::ALL.into_iter().filter_map(line).collect()
}

fn tails(results: &Results) -> String {
    let mut plots = String::new();
    for rate in results.rates() {
        for percentile in [99.0, 99.9] {
            let series = by_loss(results, rate, |s| s.at(percentile).map(|e| (e.low, e.value, e.high)));
            if series.iter().any(|s| s.points.len() > 1) {
                let y = Axis::milliseconds(series.iter().flat_map(|s| s.whiskers.iter().flat_map(|w| [w.0, w.1])));
                let title = format!("p{percentile} at {rate} records/s");
                plots += &figure(&title, &svg(&losses(results), &y, &series, &title));
            }
        }
    }
    plots
}

fn curves(results: &Results) -> String {
    let mut plots = String::new();
    for rate in results.rates() {
        for condition in results.conditions() {
            let series: Vec<Series> =
                System::ALL.into_iter().filter_map(|system| results.find(system, condition, rate)).map(tail_curve).collect();
            if condition == Condition::Random(0) || series.len() < 2 {
                continue;
            }
            let x = Axis::milliseconds(series.iter().flat_map(|s| s.points.iter().map(|p| p.0)));
            let ticks = [(1.0, "100 %"), (0.1, "10 %"), (0.01, "1 %"), (0.001, "0.1 %")].map(|(v, t)| (v, t.to_owned())).to_vec();
            let y = Axis { title: "records that take longer".into(), low: RARE, high: 1.0, log: true, ticks };
            let title = format!("{}, {rate} records/s", condition.title());
            plots += &figure(&title, &svg(&x, &y, &series, &title));
        }
    }
    plots
}

fn tail_curve(summary: &Summary) -> Series {
    // Down to the floor of the plot and no further: what is below is a record or two.
    let mut points: Vec<(f64, f64)> = summary.curve.iter().copied().take_while(|p| p.1 >= RARE).collect();
    points.extend(summary.curve.get(points.len()).map(|p| (p.0, RARE)));
    Series { label: summary.cell.system.title().into(), class: class(summary.cell.system), points, whiskers: Vec::new(), dots: false }
}

fn costs(results: &Results) -> String {
    let mut plots = String::new();
    for rate in results.rates() {
        let series = by_loss(results, rate, |s| Some((s.bytes(), s.bytes(), s.bytes())));
        if series.iter().any(|s| s.points.len() > 1) {
            let high = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).fold(0.0, f64::max) * 1.1;
            let step = if high > 1200.0 {
                400
            } else if high > 500.0 {
                200
            } else {
                100
            };
            let ticks = (0..).map(|n| n * step).take_while(|t| f64::from(*t) < high).map(|t| (f64::from(t), t.to_string())).collect();
            let y = Axis { title: "bytes".into(), low: 0.0, high, log: false, ticks };
            let title = format!("Bytes a record at {rate} records/s");
            plots += &figure(&title, &svg(&losses(results), &y, &series, &title));
        }
    }
    plots
}

fn claims(results: &Results) -> String {
    let mut table = String::from("<table class=\"claims\"><tbody>");
    for claim in &results.claims {
        let (class, word) = if claim.holds { ("holds", "holds") } else { ("short", "falls short") };
        let _ = write!(table, "<tr><td class=\"{class}\">{word}</td><td>{}</td><td class=\"n\">{}</td></tr>", claim.text, claim.measured);
    }
    table + "</tbody></table>"
}

fn figures(results: &Results) -> String {
    let mut table = String::from(
        "<div class=\"wide\"><table><thead><tr><th>System</th><th>Protected by</th><th class=\"n\">p50</th><th class=\"n\">p90</th><th class=\"n\">p99</th>\
         <th class=\"n\">p99.9</th><th class=\"n\">Undelivered</th><th class=\"n\">Bytes up</th><th class=\"n\">Bytes down</th><th class=\"n\">Packets up</th></tr></thead>",
    );
    for rate in results.rates() {
        for condition in results.conditions() {
            let rows: Vec<&Summary> = results.summaries.iter().filter(|s| s.cell.rate == rate && s.cell.condition == condition).collect();
            if rows.is_empty() {
                continue;
            }
            let _ = write!(table, "<tbody><tr class=\"group\"><th colspan=\"10\">{}, {rate} records/s</th></tr>", condition.title());
            for row in rows {
                let _ = write!(
                    table,
                    "<tr><td><i class=\"{}\"></i>{}</td><td>{}</td>",
                    class(row.cell.system),
                    row.cell.system.title(),
                    row.cell.system.transport()
                );
                for percentile in [50.0, 90.0, 99.0, 99.9] {
                    let _ = match row.at(percentile) {
                        Some(e) => write!(table, "<td class=\"n\">{:.1}<small>{:.0} to {:.0}</small></td>", e.value, e.low, e.high),
                        None => write!(table, "<td class=\"n\">none</td>"),
                    };
                }
                let _ = write!(
                    table,
                    "<td class=\"n\">{} of {}</td><td class=\"n\">{:.0}</td><td class=\"n\">{:.0}</td><td class=\"n\">{:.2}</td></tr>",
                    row.undelivered, row.due, row.bytes_up, row.bytes_down, row.packets_up
                );
            }
            table.push_str("</tbody>");
        }
    }
    table + "</table></div>"
}

fn method(results: &Results) -> String {
    let plan = &results.plan;
    format!(
        "<p>Every system sends the same schedule of JSON telemetry records of about 150 bytes over the same emulated link: {:.0} ms each way, the loss each way by itself, \
         from the same seed and so the same impairment. Rounds of the systems follow each other in turns, {} side by side, each with a link and servers of its own, so that what else the machine does hits all alike. \
         Each cell is {} rounds of {:.0} s; the first {:.0} s of a round more do not count: they hold TCP's slow start and the device's measuring of the loss. Connections are made before the loss begins.</p>\
         <p>Latency counts from the moment a record was due, whatever held it up, to its first arrival at a consumer on the server's side of the link, where nothing is lost. \
         What has not arrived {} s after the last record was due counts as undelivered; the latest lane promises no delivery, and its percentiles are of what arrived. \
         Intervals are 95 % by a bootstrap of blocks of one second. Bytes are IP packets with all headers, counted where they enter the link, lost ones too.</p>\
         <p>Mosquitto keeps nothing on disk; the Motience server writes each record to its log before it acknowledges it. The Node.js chain is WebSocket in, Redis publish and subscribe, WebSocket out, and acknowledges nothing. \
         All TCP connections send small packets at once (TCP_NODELAY), with the kernel's own congestion control. Measured in {} s.</p>",
        results.delay_ms, plan.side_by_side, plan.seeds, plan.seconds, plan.warm_up, results.settle_seconds, results.took_seconds
    )
}
