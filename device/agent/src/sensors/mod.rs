//! Sensors: each makes records at its own pace, under its own name, on its own lane.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use motience_device::{
    client, clock,
    producer::{Error, Producer},
};
use motience_proto::model::{
    DeviceId, Seq,
    record::{self, Defaults},
};
use serde_json::Value;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Kind, Lane, Sensor};

mod command;
mod file;
mod lines;
mod system;

/// Counters of a sensor.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) name: String,
    pub(super) records: AtomicU64,
    pub(super) bad: AtomicU64,
}

impl Counts {
    pub(super) fn new(sensor: &Sensor) -> Self {
        Self { name: sensor.label().to_owned(), records: AtomicU64::new(0), bad: AtomicU64::new(0) }
    }
}

/// Context of sensors beside their settings.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) shutdown: CancellationToken,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) grace: Duration,
}

/// Runs a sensor until shutdown, or until it has come to its end.
pub(super) async fn run(sensor: Sensor, sink: Sink, context: Context) {
    let remembers = matches!(sensor.kind, Kind::File { .. });
    let Sensor { kind, interval, .. } = sensor;
    let work = async {
        match kind {
            Kind::System => system::run(interval, &sink).await,
            Kind::Command { command, timeout } => command::run(&command, timeout, interval, &sink).await,
            Kind::Stdin => lines::run(tokio::io::stdin(), &sink).await,
            // A file sensor sees the shutdown itself: it has a position to remember then.
            Kind::File { path, from_start } => return file::run(path, from_start, interval, &sink, &context).await,
        }
        tracing::info!(sensor = sink.counts.name, "the sensor has come to its end");
    };
    let forced = async {
        context.shutdown.cancelled().await;
        if remembers {
            time::sleep(context.grace).await;
        }
    };
    tokio::select! {
        biased;
        () = forced => {}
        () = work => {}
    }
}

/// Reads a sensor once: the record it makes, or word of what it will read; or what is wrong with it.
pub(super) async fn trial(sensor: &Sensor, device_id: &DeviceId) -> Result<String, String> {
    let readings = match &sensor.kind {
        Kind::System => system::once().await.ok_or("this machine cannot be read")?.into(),
        Kind::Command { command, timeout } => {
            let (output, complaint) = command::output(command, *timeout, record::MAX_RECORD).await;
            let complaint = if complaint.is_empty() { complaint } else { format!(" (its standard error: {complaint})") };
            output.map_err(|reason| reason + &complaint)?
        }
        Kind::Stdin => return Ok("standard input is read when the agent runs".into()),
        Kind::File { path, .. } => {
            return match tokio::fs::File::open(path).await {
                Ok(file) if file.metadata().await.is_ok_and(|found| found.is_file()) => Ok(format!("{} can be read", path.display())),
                Ok(_) => Err(format!("{} is no file", path.display())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(format!("{} is not there yet", path.display())),
                Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
            };
        }
    };
    let json = complete(&readings, device_id, sensor.name.as_deref(), record::MAX_RECORD).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&json).into_owned())
}

/// Where readings go: completed to records, checked, taken into the outbox.
pub(super) struct Sink {
    producer: Arc<Producer>,
    device_id: DeviceId,
    name: Option<String>,
    lane: Lane,
    max_record: usize,
    counts: Arc<Counts>,
}

impl Sink {
    pub(super) fn new(producer: Arc<Producer>, config: &Config, sensor: &Sensor, counts: Arc<Counts>) -> Self {
        Self {
            producer,
            device_id: config.device_id.clone(),
            name: sensor.name.clone(),
            lane: sensor.lane,
            max_record: record::MAX_RECORD,
            counts,
        }
    }

    /// Takes an object of readings, or a whole record. Anything else is logged and counted. The record is on disk a moment
    /// later: waiting for each would hold up a sensor that reads many.
    async fn put(&self, readings: Bytes) -> Option<Seq> {
        let json = match complete(&readings, &self.device_id, self.name.as_deref(), self.max_record) {
            Ok(json) => json,
            Err(error) => {
                self.bad(&error.to_string());
                return None;
            }
        };
        let lane = match self.lane {
            Lane::Ordered => client::Lane::Ordered,
            Lane::Independent => client::Lane::Independent,
            Lane::Latest => {
                match self.producer.send_latest(json) {
                    Ok(()) => drop(self.counts.records.fetch_add(1, Relaxed)),
                    Err(error) => tracing::debug!(%error, sensor = self.counts.name, "a record was not taken"),
                }
                return None;
            }
        };
        loop {
            match self.producer.enqueue(lane, json.clone()).await {
                Ok(seq) => {
                    self.counts.records.fetch_add(1, Relaxed);
                    return Some(seq);
                }
                // Policy `block`: the sensor waits, as it was told to.
                Err(Error::Full(_)) => tracing::warn!(sensor = self.counts.name, "the outbox is full"),
                Err(error) => {
                    tracing::debug!(%error, sensor = self.counts.name, "a record was not taken");
                    return None;
                }
            }
        }
    }

    /// Counts a bad reading; logs the first, and then ever fewer.
    fn bad(&self, reason: &str) {
        let count = self.counts.bad.fetch_add(1, Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(sensor = self.counts.name, reason, count, "a bad reading");
        }
    }
}

/// Completes readings or a partial record to a record, with the sensor's name in its data.
fn complete(readings: &Bytes, device_id: &DeviceId, name: Option<&str>, limit: usize) -> Result<Bytes, record::Invalid> {
    // The service takes no other device's records from this one.
    let defaults = Defaults { device_id: device_id.as_str(), strict: true, now: clock::now_in_millis() };
    let json = record::admit(readings, limit, &defaults)?.json;
    let Some(name) = name else { return Ok(json) };
    let invalid = |e: serde_json::Error| record::Invalid::Json(e.to_string());
    let mut members: serde_json::Map<String, Value> = serde_json::from_slice(&json).map_err(invalid)?;
    if let Some(Value::Object(data)) = members.get_mut("data") {
        data.entry("sensor").or_insert_with(|| name.into());
    }
    let json = Bytes::from(serde_json::to_vec(&members).map_err(invalid)?);
    if json.len() > limit { Err(record::Invalid::TooLarge { size: json.len(), limit }) } else { Ok(json) }
}

#[cfg(test)]
mod tests;
