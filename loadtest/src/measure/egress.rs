//! `loadtest egress`: what each egress costs. All of them run the same flows against one server, in turns, so that a noisy
//! machine is noisy for all; the middle of the rounds is reported.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::Args;
use hdrhistogram::Histogram;

use crate::common::{
    accounts::Accounts,
    egress::{Connection, Egress, Incoming, Start, Target},
    flow::Flow,
    report::{Report, middle},
    server::{Addresses, Own},
};

/// Options of `loadtest egress`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Seconds of each flow.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds of all egresses.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Consumers of each flow; all follow the same producer.
    #[arg(long, default_value_t = 20)]
    consumers: usize,
    /// Records a second of the steady flow, each delivered to every consumer.
    #[arg(long, default_value_t = 250.0)]
    rate: f64,
    /// Connections whose first byte is waited for, in each round.
    #[arg(long, default_value_t = 50)]
    connections: u32,
    /// The program to start, where it is not beside this one.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// Every egress, the oldest first.
const EGRESSES: [Egress; 8] =
    [Egress::Plain, Egress::Wss2, Egress::Native, Egress::WebTransport, Egress::Sse, Egress::Sse3, Egress::Ndjson, Egress::Ndjson3];

/// One egress in one round.
struct Run {
    /// Microseconds from the beginning of a connection to the first record on it.
    first: Histogram<u64>,
    steady: Report,
    flood: Report,
}

pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.rounds == 0 || options.consumers == 0 || options.connections == 0 {
        bail!("give at least one round, one consumer and one connection");
    }
    let own = Own::start(options.server_program.clone(), &[]).await?;
    let mut runs: Vec<Vec<Run>> = EGRESSES.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        for (egress, runs) in EGRESSES.into_iter().zip(&mut runs) {
            eprintln!("round {}: {}", round + 1, egress.name());
            let first = first_byte(egress, &options, &own.addresses).await?;
            let flow = |rate| Flow::fan(egress, 1, options.consumers, rate, options.seconds);
            let steady = flow(options.rate).run(&own.addresses).await?;
            let flood = flow(0.0).run(&own.addresses).await?;
            runs.push(Run { first, steady, flood });
        }
    }
    own.stop().await?;
    print(&options, &runs);
    Ok(runs.iter().flatten().all(|run| run.steady.good() && run.flood.good()))
}

/// Connects anew again and again, and waits each time for the one record that the log holds. A plain consumer begins with
/// what is live, so that there is nothing for it to wait for.
async fn first_byte(egress: Egress, options: &Options, addresses: &Addresses) -> Result<Histogram<u64>> {
    let mut first = Histogram::new(3)?;
    if egress == Egress::Plain {
        return Ok(first);
    }
    let accounts = Accounts::new(addresses)?;
    let (producer, consumer) = (accounts.make("producer", 1).await?.remove(0), accounts.make("consumer", 1).await?.remove(0));
    accounts.subscribe(&consumer, &producer).await?;
    accounts.post(&producer, &serde_json::json!({"device_id": "d", "timestamp": 0, "data": {}})).await?;
    let (target, start) = (Target::at(egress, addresses, &consumer, vec![producer.id]), Start::After(Default::default()));
    for _ in 0..options.connections {
        let began = Instant::now();
        let mut connection = Connection::open(egress, &target, &start).await?;
        loop {
            match connection.next().await? {
                Incoming::Message(text) if Incoming::is_position(&text) => {}
                Incoming::Message(_) => break,
                Incoming::End(how) => bail!("{} ended: {how}", egress.name()),
            }
        }
        first.record(u64::try_from(began.elapsed().as_micros())?)?;
    }
    Ok(first)
}

fn print(options: &Options, runs: &[Vec<Run>]) {
    say!(
        "one device -> {} consumers, {} s each, the middle of {} rounds; steady at {:.0} records/s; first byte of {} connections a round",
        options.consumers,
        options.seconds,
        options.rounds,
        options.rate,
        options.connections
    );
    say!(
        "{:<17} | {:>10} {:>8} | {:>8} {:>8} {:>6} | {:>12} {:>8} {:>6}",
        "egress",
        "first ms",
        "p99 ms",
        "p50 ms",
        "p99 ms",
        "ratio",
        "flood rec/s",
        "CPU-s/M",
        "ratio"
    );
    let shown = |ms: f64| if ms > 0.0 { format!("{ms:.3}") } else { "-".to_owned() };
    let tail = |runs: &[Run]| middle(runs, |run| run.steady.latency.value_at_quantile(0.99) as f64 / 1e3);
    let cost = |runs: &[Run]| middle(runs, |run| run.flood.cpu_per_million().unwrap_or(f64::NAN));
    let (base_tail, base_cost) = (tail(&runs[0]), cost(&runs[0]));
    for (egress, runs) in EGRESSES.iter().zip(runs) {
        let first = |q| middle(runs, |run| run.first.value_at_quantile(q) as f64 / 1e3);
        let half = middle(runs, |run| run.steady.latency.value_at_quantile(0.5) as f64 / 1e3);
        let rate = middle(runs, |run| run.flood.delivered as f64 / run.flood.seconds);
        let (tail, cost) = (tail(runs), cost(runs));
        say!(
            "{:<17} | {:>10} {:>8} | {half:>8.3} {tail:>8.3} {:>6.2} | {rate:>12.0} {cost:>8.2} {:>6.2}",
            egress.name(),
            shown(first(0.5)),
            shown(first(0.99)),
            tail / base_tail,
            cost / base_cost
        );
        for run in runs.iter().filter(|run| !run.steady.good() || !run.flood.good()) {
            run.steady.print();
            run.flood.print();
        }
    }
}
