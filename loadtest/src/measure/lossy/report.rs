//! The report: a Markdown page with the figures, and the charts beside it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use plotters::style::RGBColor;

use super::{
    charts::{Axis, Series, svg},
    figures::figures,
    plan::{Condition, System},
    results::{Results, Summary},
};

/// The smallest share that distributions show.
const RARE: f64 = 0.0005;

/// A chart, and the name of its file.
struct Chart {
    file: String,
    title: String,
    svg: String,
}

/// Writes `lossy.md` and its charts into the folder.
pub(super) fn write(results: &Results, folder: &Path) -> Result<()> {
    let mut page = String::from("# Records over lossy links\n");
    for (title, explanation, charts) in [
        (
            "The tail, by loss",
            "Percentiles of the latency from when a record was due to its first arrival. Bars: 95 % confidence.",
            tails(results)?,
        ),
        (
            "How many take longer",
            "The share of all records that took longer than a time; lower and further left is better. Both axes are logarithmic.",
            curves(results)?,
        ),
        (
            "Cost",
            "IP bytes on the wire for each record of about 150 bytes, both ways together, with headers, acknowledgements and redundancy.",
            costs(results)?,
        ),
    ] {
        if !charts.is_empty() {
            page += &format!("\n## {title}\n\n{explanation}\n");
        }
        for Chart { file, title, svg } in charts {
            fs::write(folder.join(&file), svg).with_context(|| format!("{file} cannot be written"))?;
            page += &format!("\n![{title}]({file})\n");
        }
    }
    page += &format!("\n## All figures\n\n{}\n## How it was measured\n\n{}", figures(results), method(results));
    fs::write(folder.join("lossy.md"), page).context("lossy.md cannot be written")
}

/// Colours of Okabe and Ito, which the colour-blind tell apart.
fn color(system: System) -> RGBColor {
    match system {
        System::Independent => RGBColor(0, 114, 178),
        System::Ordered => RGBColor(86, 180, 233),
        System::Latest => RGBColor(0, 158, 115),
        System::WebSocket => RGBColor(204, 121, 167),
        System::Mqtt => RGBColor(213, 94, 0),
        System::Node => RGBColor(168, 116, 0),
    }
}

/// The losses as an axis; bursts stand to the right, apart from the others.
fn losses(results: &Results) -> Axis {
    let conditions = results.conditions();
    let ticks = conditions.iter().enumerate().map(|(n, c)| {
        let text = match c {
            Condition::Random(p) => format!("{p} %"),
            other => other.name(),
        };
        (n as f64, text)
    });
    Axis { title: "packets lost each way".into(), low: -0.3, high: conditions.len() as f64 - 0.7, log: false, ticks: ticks.collect() }
}

/// A line for each system with at least one value at this rate: low end, value and high end.
fn by_loss(results: &Results, rate: u32, value: impl Fn(&Summary) -> Option<(f64, f64, f64)>) -> Vec<Series> {
    let conditions = results.conditions();
    let line = |system: System| {
        let (mut points, mut intervals) = (Vec::new(), Vec::new());
        for (n, condition) in conditions.iter().enumerate() {
            if let Some((low, value, high)) = results.find(system, *condition, rate).and_then(&value) {
                points.push((n as f64, value));
                intervals.push((low, high));
            }
        }
        (!points.is_empty()).then(|| Series { label: system.title(), color: color(system), points, intervals })
    };
    System::ALL.into_iter().filter_map(line).collect()
}

fn tails(results: &Results) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for rate in results.rates() {
        for percentile in [99.0, 99.9] {
            let series = by_loss(results, rate, |s| s.at(percentile).map(|e| (e.low, e.value, e.high)));
            if series.iter().any(|s| s.points.len() > 1) {
                let y = Axis::milliseconds(series.iter().flat_map(|s| s.intervals.iter().flat_map(|i| [i.0, i.1])));
                let title = format!("p{percentile} at {rate} records/s");
                let svg = svg(&title, &losses(results), &y, &series)?;
                charts.push(Chart { file: format!("tail-p{percentile}-{rate}.svg"), title, svg });
            }
        }
    }
    Ok(charts)
}

fn curves(results: &Results) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for rate in results.rates() {
        for condition in results.conditions() {
            let series: Vec<Series> =
                System::ALL.into_iter().filter_map(|system| results.find(system, condition, rate)).map(tail_curve).collect();
            let name = match condition {
                Condition::Random(0) => continue,
                other => other.name(),
            };
            if series.len() < 2 {
                continue;
            }
            let x = Axis::milliseconds(series.iter().flat_map(|s| s.points.iter().map(|p| p.0)));
            let ticks = [(1.0, "100 %"), (0.1, "10 %"), (0.01, "1 %"), (0.001, "0.1 %")].map(|(v, t)| (v, t.to_owned())).to_vec();
            let y = Axis { title: "records that take longer".into(), low: RARE, high: 1.0, log: true, ticks };
            let title = format!("{}, {rate} records/s", condition.title());
            charts.push(Chart { file: format!("longer-{name}-{rate}.svg"), svg: svg(&title, &x, &y, &series)?, title });
        }
    }
    Ok(charts)
}

fn tail_curve(summary: &Summary) -> Series {
    // Down to the floor of the chart and no further: below are a record or two.
    let mut points: Vec<(f64, f64)> = summary.curve.iter().copied().take_while(|p| p.1 >= RARE).collect();
    points.extend(summary.curve.get(points.len()).map(|p| (p.0, RARE)));
    Series { label: summary.cell.system.title(), color: color(summary.cell.system), points, intervals: Vec::new() }
}

fn costs(results: &Results) -> Result<Vec<Chart>> {
    let mut charts = Vec::new();
    for rate in results.rates() {
        let series = by_loss(results, rate, |s| Some((s.bytes(), s.bytes(), s.bytes())));
        if series.iter().any(|s| s.points.len() > 1) {
            let high = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).fold(0.0, f64::max) * 1.1;
            let step = match high {
                1200.0.. => 400,
                500.0.. => 200,
                _ => 100,
            };
            let ticks = (0..).map(|n| n * step).take_while(|t| f64::from(*t) < high).map(|t| (f64::from(t), t.to_string())).collect();
            let y = Axis { title: "bytes".into(), low: 0.0, high, log: false, ticks };
            let title = format!("Bytes a record at {rate} records/s");
            charts.push(Chart { file: format!("bytes-{rate}.svg"), svg: svg(&title, &losses(results), &y, &series)?, title });
        }
    }
    Ok(charts)
}

fn method(results: &Results) -> String {
    let plan = &results.plan;
    format!(
        "Every system sends the same schedule of JSON telemetry records of about 150 bytes over the same emulated link: {:.0} ms each way, the loss each way by itself, \
         from the same seed and so the same impairment. Rounds of the systems follow each other in turns, {} side by side, each with a link and servers of its own, so that other work of the machine hits all alike. \
         Each cell is {} rounds of {:.0} s; the first {:.0} s of a round more do not count: they hold TCP's slow start and the device's measuring of the loss. Connections are made before the loss begins.\n\n\
         Latency counts from the moment a record was due, whatever held it up, to its first arrival at a consumer on the server's side of the link, where nothing is lost. \
         A record that has not arrived {} s after the last record was due counts as undelivered; the latest lane promises no delivery, and its percentiles are of what arrived. \
         Intervals are 95 % by a bootstrap of blocks of one second. Bytes are IP packets with all headers, counted where they enter the link, lost ones too.\n\n\
         Mosquitto keeps nothing on disk; the Motience server writes each record to its log before it acknowledges it. The Node.js chain is WebSocket in, Redis publish and subscribe, WebSocket out, and acknowledges nothing. \
         Motience's lanes use TLS 1.3 over QUIC and MQTT uses TLS 1.3 over TCP; the two WebSocket chains are not encrypted. \
         All TCP connections send small packets at once (TCP_NODELAY), with the kernel's own congestion control. Measured in {} s.\n",
        results.delay_ms, plan.side_by_side, plan.seeds, plan.seconds, plan.warm_up, results.settle_seconds, results.took_seconds
    )
}
