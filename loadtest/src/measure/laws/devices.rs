//! `loadtest laws --devices`: what many devices of one producer cost, whose records name them, as those of a gateway do: a few WebSocket connections send for
//! all of them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _, future::try_join_all};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};
use url::Url;

use super::{Options, caller::Caller, node::Node, samples::Samples};
use crate::common::{
    accounts::Account,
    redis::{calls, reports, used},
};

/// Connections that send, and records of each that are under way.
const CONNECTIONS: usize = 16;
const IN_FLIGHT: usize = 128;
/// Devices in a page.
const PAGE: usize = 200;
/// Pages and records of each kind, and those of them that do not count.
const COUNT: usize = 30;
const WARM: usize = 2;
/// Looks after which nothing that was read from Redis serves any more, and how many of them are taken.
const PAUSE: Duration = Duration::from_secs(6);
const LOOKS: usize = 3;
/// How long after its last record a device's rate is looked at no more.
const SETTLE: Duration = Duration::from_secs(14);
/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the reports of all, and how often it is looked for them. A node writes a thousand a second.
const REPORTS_LIMIT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(100);

/// Measures each number of devices, and prints a table.
pub(super) async fn run(options: &Options) -> Result<()> {
    say!(
        "pages: median / 99 % in ms of up to {PAGE} devices, one after the other; \"anew\": of those for which a node reads the reports in Redis"
    );
    say!(
        "{:>7} | {:>11} {:>11} {:>13} | {:>9} {:>9} | {:>8} {:>9} | {:>15} {:>15} {:>15} | {:>10} {:>11} | {:>13}",
        "devices",
        "first rec/s",
        "later rec/s",
        "Redis calls/s",
        "Redis KiB",
        "node KiB",
        "all seen",
        "idle CPU",
        "first page",
        "deep page",
        "search",
        "page anew",
        "search anew",
        "chosen record"
    );
    for &devices in &options.devices {
        measure(options, devices).await?;
    }
    Ok(())
}

async fn measure(options: &Options, devices: usize) -> Result<()> {
    let most = devices.max(10_000).to_string();
    let node = Node::start(options, &[("DEVICES_MAX", &most), ("DEVICES_MAX_PER_PRODUCER", &most)]).await?;
    let (accounts, operator) = (node.accounts()?, Caller::of(&node.operator().await?)?);
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumer = accounts.make("consumer", 1).await?.remove(0);
    accounts.subscribe(&consumer, &producer).await?;
    // Makes the producer's log.
    accounts.post(&producer, &record(0)).await?;

    let (memory, redis, began) = (node.resident()?, used(&node.redis).await?, Instant::now());
    let first = round(&node, &producer, devices).await?;
    counted(devices, async || reports(&node.redis).await).await?;
    let seen = began.elapsed();
    let (memory, redis) = (node.resident()?.saturating_sub(memory), used(&node.redis).await?.saturating_sub(redis));
    let before = calls(&node.redis).await?;
    let later = round(&node, &producer, devices).await?;
    let called = (calls(&node.redis).await? - before) as f64 / later.as_secs_f64();

    let dsm = &node.own.addresses.dsm;
    let page = format!("{dsm}/devices/{}?limit={PAGE}", producer.id);
    let deep = format!("{page}&after={}", name(devices * 9 / 10));
    let search = format!("{dsm}/devices?limit={PAGE}&query={}", &name(devices / 2)[3..]);
    let of_producer = Caller::of(&producer)?;
    let first_page = Samples::of(WARM, COUNT, async |_| of_producer.page(&page).await.map(drop)).await?;
    let deep_page = Samples::of(WARM, COUNT, async |_| of_producer.page(&deep).await.map(drop)).await?;
    let found = Samples::of(WARM, COUNT, async |_| operator.page(&search).await.map(drop)).await?;
    let page_anew = anew(&of_producer, &page).await?;
    let search_anew = anew(&operator, &search).await?;
    let chosen = chosen(&node, &producer, &consumer, devices / 2).await?;
    sleep(SETTLE).await;
    let (cpu, began) = (node.cpu()?, Instant::now());
    sleep(Duration::from_secs(options.seconds)).await;
    let idle = node.cpu()?.saturating_sub(cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    node.own.stop().await?;

    let each = |bytes: u64| bytes as f64 / 1024.0 / devices as f64;
    let rate = |took: Duration| devices as f64 / took.as_secs_f64();
    say!(
        "{devices:>7} | {:>11.0} {:>11.0} {called:>13.0} | {:>9.2} {:>9.2} | {:>7.1}s {idle:>8.1}% | {first_page:>15} {deep_page:>15} {found:>15} | {:>10.1} {:>11.1} | {chosen:>13}",
        rate(first),
        rate(later),
        each(redis),
        each(memory),
        seen.as_secs_f64(),
        page_anew.median().as_secs_f64() * 1e3,
        search_anew.median().as_secs_f64() * 1e3,
    );
    Ok(())
}

fn name(device: usize) -> String {
    format!("device-{device:06}")
}

fn record(device: usize) -> Value {
    json!({"device_id": name(device), "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 21.5, "humidity": 40.5}})
}

/// Sends a record of each device. Returns how long it took until all were acknowledged.
async fn round(node: &Node, producer: &Account, devices: usize) -> Result<Duration> {
    let url = format!("{}?token={}", node.own.addresses.wss1, producer.token);
    let began = Instant::now();
    try_join_all((0..CONNECTIONS).map(|n| send(&url, (n..devices).step_by(CONNECTIONS)))).await?;
    Ok(began.elapsed())
}

/// Sends a record of each of these devices over one connection.
async fn send(url: &str, devices: impl Iterator<Item = usize>) -> Result<()> {
    let (mut socket, _) = connect_async(url).await?;
    let (mut devices, mut under_way) = (devices.peekable(), 0);
    while under_way > 0 || devices.peek().is_some() {
        for device in devices.by_ref().take(IN_FLIGHT - under_way) {
            socket.feed(Message::text(record(device).to_string())).await?;
            under_way += 1;
        }
        socket.flush().await?;
        // Half of them have to be in the log before more are sent, so that they come together.
        let rest = if devices.peek().is_some() { IN_FLIGHT / 2 } else { 0 };
        while under_way > rest {
            match timeout(ANSWER_LIMIT, socket.next()).await.context("no acknowledgement in time")? {
                Some(Ok(Message::Text(text))) if text.contains(r#""type":"ack""#) => under_way -= 1,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => bail!("a producer's connection was told: {other:?}"),
            }
        }
    }
    socket.close(None).await?;
    Ok(())
}

/// Returns once so many are counted: a report may take its time, and one that was never written would be waited for in vain.
pub(super) async fn counted(wanted: usize, count: impl AsyncFn() -> Result<u64>) -> Result<()> {
    let began = Instant::now();
    loop {
        let there = count().await?;
        if there >= wanted as u64 {
            return Ok(());
        }
        if began.elapsed() > REPORTS_LIMIT {
            bail!("{there} of {wanted} are reported after {} s", REPORTS_LIMIT.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// How long a page takes for which the node has to read what is in Redis.
pub(super) async fn anew(caller: &Caller, url: &str) -> Result<Samples> {
    let mut taken = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        sleep(PAUSE).await;
        let began = Instant::now();
        caller.page(url).await?;
        taken.push(began.elapsed());
    }
    Ok(Samples::from(taken))
}

/// How long a record takes to a consumer that has chosen its device.
async fn chosen(node: &Node, producer: &Account, consumer: &Account, device: usize) -> Result<Samples> {
    let condition = format!("/device_id={:?}", name(device));
    let url = Url::parse_with_params(&format!("{}/stream", node.own.addresses.dsm), [("where", condition)])?;
    let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let request = client.get(url).header("accept", "application/x-ndjson").bearer_auth(&consumer.token);
    let mut stream = request.send().await?.error_for_status()?;
    let (accounts, wanted, other) = (node.accounts()?, record(device), record(device + 1));
    let mut taken = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        accounts.post(producer, &other).await?;
        let began = Instant::now();
        let (sent, heard) = tokio::join!(accounts.post(producer, &wanted), timeout(ANSWER_LIMIT, until(&mut stream, device)));
        sent?;
        taken.push(heard.context("the record does not come")?? - began);
    }
    Ok(Samples::from(taken[WARM..].to_vec()))
}

/// Reads a stream until there is a record of this device.
async fn until(stream: &mut reqwest::Response, device: usize) -> Result<Instant> {
    let (name, mut text) = (name(device), String::new());
    while let Some(some) = stream.chunk().await? {
        text.push_str(std::str::from_utf8(&some)?);
        if text.contains(&name) && text.ends_with('\n') {
            return Ok(Instant::now());
        }
    }
    bail!("the stream has ended");
}
