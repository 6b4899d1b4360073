//! A device and its consumer with this crate: register, log in, subscribe, send over QUIC from an outbox on disk, receive, resume.
//!
//! Start a server first (`cargo run --release`), then `cargo build --release --workspace --example device` and run
//! `target/release/examples/device`. `AUTH_URL`, `SM_URL`, `SERVER_URL` and `CA` name services that are elsewhere, and the CA of their
//! certificate.

use std::{
    env,
    error::Error,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use motience_certs::Trust;
use motience_device::{
    Consumer, Credentials, Producer,
    client::{self, Server},
    consumer::{self, Delivery},
    login::{Auth, Tokens},
    outbox::Storage,
    producer,
};
use motience_proto::{
    model::{Cursor, ProducerId, Role},
    wire::Start,
};
use secrecy::ExposeSecret;

type Outcome<T> = Result<T, Box<dyn Error>>;

const DEVICE_ID: &str = "rpi_001";

#[tokio::main]
async fn main() -> Outcome<()> {
    let trust = Trust::Ca(PathBuf::from(setting("CA", "certs/dev/ca.pem")));
    let server: Server = setting("SERVER_URL", "quic://localhost:4433").parse()?;
    let client = client::Config::new(server, trust.clone(), DEVICE_ID.parse()?);
    let auth = Auth::new(&setting("AUTH_URL", "http://localhost:3001"), &trust)?;

    let producer = log_in(&auth, Role::Producer).await?;
    let consumer = log_in(&auth, Role::Consumer).await?;
    subscribe(&consumer, &producer).await?;
    println!("subscribed to producer {}", producer.user_id);

    // A record is in this file from `send` until the server has acknowledged it. The next start sends those that are left.
    let mut config = producer::Config::new(client.clone());
    config.outbox.storage = Storage::Disk(env::temp_dir().join(setting("OUTBOX", "motience-example.outbox")));
    let device = Producer::start(config, Credentials::Token(producer.access.clone()))?;
    send(&device, 20.5).await?;
    send(&device, 21.5).await?;
    let cursor = receive(&client, &consumer, &producer, Start::Earliest, 2).await?;

    // The consumer is away now. A record that is sent meanwhile waits in the log.
    send(&device, 22.5).await?;
    println!("resuming after {cursor}");
    receive(&client, &consumer, &producer, Start::After(cursor), 1).await?;
    device.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// A login of an account with this role. A program that runs for longer than a token uses `Credentials::account`, which renews it.
async fn log_in(auth: &Auth, role: Role) -> Outcome<Tokens> {
    let (username, password) = (format!("rust-{role}"), "pass123".into());
    // The account of an earlier run is as good as a new one: the login tells whether it is ours.
    if let Err(refusal) = auth.register(&username, &password, role, None).await {
        println!("not registered: {refusal}");
    }
    Ok(auth.login(&username, &password).await?)
}

async fn subscribe(consumer: &Tokens, producer: &Tokens) -> Outcome<()> {
    // This service is reached over plain HTTP: the client trusts no certificate.
    let http = reqwest::Client::builder().tls_backend_preconfigured(motience_certs::client::distrusting_config()).build()?;
    let url = setting("SM_URL", "http://localhost:3002") + "/subscribe";
    let request = http.post(url).bearer_auth(consumer.access.expose_secret());
    request.json(&serde_json::json!({ "producer_id": producer.user_id })).send().await?.error_for_status()?;
    Ok(())
}

async fn send(device: &Producer, temperature: f64) -> Outcome<()> {
    let timestamp = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let record = serde_json::json!({ "device_id": DEVICE_ID, "timestamp": timestamp, "data": { "temperature": temperature } });
    let seq = device.send(record.to_string()).await?;
    println!("sent {temperature}: {:?}", device.acked(seq).await?);
    Ok(())
}

/// Prints so many records and gives the cursor of the last one.
async fn receive(client: &client::Config, consumer: &Tokens, producer: &Tokens, from: Start, mut left: usize) -> Outcome<Cursor> {
    let mut consumer = Consumer::start(consumer::Config::new(client.clone()), Credentials::Token(consumer.access.clone()))?;
    consumer.subscribe(ProducerId(producer.user_id.0), from).await?;
    loop {
        match consumer.next().await? {
            Delivery::Record { cursor, message, .. } => {
                println!("received {} at {cursor}", String::from_utf8_lossy(&message));
                left -= 1;
                if left == 0 {
                    consumer.shutdown().await;
                    return Ok(cursor);
                }
            }
            Delivery::Ended { refusal, .. } => return Err(refusal.into()),
            notice => println!("notice: {notice:?}"),
        }
    }
}
