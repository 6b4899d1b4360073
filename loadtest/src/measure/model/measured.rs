//! `loadtest model-scale --measure`: the constants of the model, each as the difference between two flows that differ in one thing.

use anyhow::{Context as _, Result};
use reqwest::Client;
use serde_json::{Value, json};

use super::{
    Options,
    bench::{Bench, Flowed, Places},
    busy,
    constants::Constants,
    size::Size,
    taken::postgres,
};
use crate::{
    common::{
        accounts::Accounts,
        egress::{Connection, Egress, Start, Target},
    },
    measure::laws::producers::subscribe,
};

/// Followed logs whose comparisons are measured: as many as a node compares in a second.
const LOGS: usize = 1000;
/// Refresh tokens that are renewed.
const RENEWALS: usize = 300;

fn base() -> Size {
    Size { devices: 100.0, every: 0.1, producers: 100.0, consumers: 50.0, follows: 10.0, nodes: 2.0, history: false, ..Size::million() }
}

pub(super) async fn run(options: &Options, c: &Constants) -> Result<Value> {
    motience_certs::install_provider();
    let size = options.scale.size(&base());
    let bench = Bench::start(options, &size).await?;
    let (seconds, rate) = (options.seconds, size.devices / size.every);
    let groups = (size.producers / size.follows) as usize;
    let devices = || vec![0; size.devices as usize];
    let flow = async |what: &str, consumers: Vec<usize>| {
        eprintln!("{what}");
        bench.flow(&Places { devices: devices(), consumers }, size.producers as usize, Some(rate), seconds).await
    };
    let idle = bench.idle(seconds).await?;
    let base = idle.nodes.iter().sum::<f64>() / idle.nodes.len() as f64 / idle.seconds;
    let base_redis = idle.redis / idle.seconds;
    let redis = |flowed: &Flowed| (flowed.used.redis - base_redis * flowed.used.seconds) / flowed.records * 1e6;
    let node = |flowed: &Flowed, number: usize| (flowed.used.nodes[number] - base * flowed.used.seconds) / flowed.records * 1e6;

    let alone = flow("records without consumers", Vec::new()).await?;
    let one = flow("one consumer of each producer, at the other node", vec![1; groups]).await?;
    let each = (size.consumers as usize / groups).max(2);
    let many = flow("several, at the other node", vec![1; groups * each]).await?;
    let both = flow("one at each node", [vec![0; groups], vec![1; groups]].concat()).await?;
    eprintln!("many devices of one producer, each with a record under way");
    let crowd = bench.flow(&Places { devices: devices(), consumers: Vec::new() }, 1, None, seconds).await?;

    let append = redis(&alone);
    let calls = crowd.used.calls / crowd.records;
    let part = (redis(&crowd) - append * calls) / (1.0 - calls);
    let deliver = (node(&many, 1) - node(&one, 1)) / (each - 1) as f64;
    let message = size.bytes + c.message_head.get();
    let (bounds, check, asked) = compare(&bench, options).await?;
    // The writes of the last connections: those of earlier ones are refused.
    let again = async { flow("Redis as busy as it can be", Vec::new()).await };
    let (_, writes) = tokio::try_join!(again, busy::observe(&bench, size.producers as usize))?;
    let (busy_append, busy_publish) = busy::measure(&bench, &writes, seconds).await?;
    let mut found = vec![
        (&c.append, busy_append),
        (&c.append_lone, append),
        (&c.append_part, part),
        (&c.publish, busy_publish),
        (&c.publish_lone, (redis(&both) - redis(&alone)) / 2.0),
        (&c.bounds, bounds),
        (&c.ingest, node(&alone, 0)),
        (&c.receive, node(&one, 1) - deliver),
        (&c.deliver, deliver),
        (&c.check, check),
        (&c.log_record, alone.used.memory / alone.records - message),
        (&c.published, (many.used.bytes_out - alone.used.bytes_out) / many.records - message),
        (&c.appended, alone.used.bytes_in / alone.records - message),
        (&c.asked_bytes, asked),
    ];
    found.push((&c.renewal, renewal(&bench).await?));
    bench.stop().await?;

    say!("a record of a crowd took {calls:.3} writes");
    say!("{:<14} {:>10} {:>10} {:>7}  of", "", "measured", "model", "ratio");
    for (constant, value) in &found {
        say!("{:<14} {value:>10.2} {:>10.2} {:>7.2}  {}", constant.name, constant.value, value / constant.value, constant.of);
    }
    Ok(json!(
        found
            .iter()
            .map(|(constant, value)| json!({"name": constant.name, "measured": value, "model": constant.value}))
            .collect::<Vec<_>>()
    ))
}

/// Microseconds of Redis and of a node for the comparison of one log, and its bytes into Redis.
async fn compare(bench: &Bench, options: &Options) -> Result<(f64, f64, f64)> {
    eprintln!("comparisons of {LOGS} logs");
    let before = bench.idle(options.seconds).await?;
    let at = &bench.nodes[0].addresses;
    let consumer = Accounts::new(at)?.make("consumer", 1).await?.remove(0);
    let ids = subscribe(&bench.postgres.url(), &consumer, LOGS).await?;
    let mut held = Connection::open(Egress::Wss2, &Target::at(Egress::Wss2, at, &consumer, ids), &Start::Live).await?;
    held.answers().await?;
    let during = bench.idle(options.seconds).await?;
    let calls = during.calls - before.calls * during.seconds / before.seconds;
    let more = |during: f64, before: f64, of: (f64, f64)| (during - before * of.0 / of.1) / calls;
    let of = (during.seconds, before.seconds);
    Ok((
        more(during.redis, before.redis, of) * 1e6,
        more(during.nodes[0], before.nodes[0], of) * 1e6,
        more(during.bytes_in, before.bytes_in, of),
    ))
}

/// Microseconds of PostgreSQL for a refresh token that is renewed.
async fn renewal(bench: &Bench) -> Result<f64> {
    eprintln!("{RENEWALS} renewals");
    let (http, url) = (Client::new(), format!("{}/refresh", bench.nodes[0].addresses.ap));
    let mut token = bench.producers[0].refresh_token.clone();
    let before = postgres(&bench.postgres)?;
    for _ in 0..RENEWALS {
        let answer = http.post(&url).json(&json!({"refresh_token": token})).send().await?.error_for_status()?;
        let answer: Value = answer.json().await?;
        token = answer["refresh_token"].as_str().context("a renewal has a new refresh token")?.to_owned();
    }
    Ok(postgres(&bench.postgres)?.saturating_sub(before).as_secs_f64() / RENEWALS as f64 * 1e6)
}
