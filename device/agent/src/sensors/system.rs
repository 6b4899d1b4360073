//! This machine: CPU, memory, load, temperature, disk.

use std::{path::Path, time::Duration};

use serde_json::{Map, Value, json};
use sysinfo::{Components, Disks, MINIMUM_CPU_UPDATE_INTERVAL, System};
use tokio::{
    task::spawn_blocking,
    time::{self, Instant, MissedTickBehavior},
};

use super::Sink;

/// How often temperatures and disks are looked at, at most: they change slowly.
const SLOW: Duration = Duration::from_secs(1);

/// State of sysinfo between readings.
struct Machine {
    system: System,
    components: Components,
    disks: Disks,
    /// When the temperatures and the disks, which are dearer to read, were looked at.
    slow: Option<Instant>,
}

pub(super) async fn run(interval: Duration, sink: &Sink) {
    let Ok(mut machine) = spawn_blocking(Machine::new).await else { return };
    // The CPU's use is the difference of two readings.
    let mut ticks = time::interval_at(Instant::now() + MINIMUM_CPU_UPDATE_INTERVAL, interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A network file system that is away can hold up the reading of disks.
        let read = spawn_blocking(move || {
            let readings = machine.read();
            (machine, readings)
        });
        let Ok((back, readings)) = read.await else { return };
        machine = back;
        sink.put(Value::Object(readings).to_string().into()).await;
    }
}

/// One reading, for who wants to see one.
pub(super) async fn once() -> Option<String> {
    spawn_blocking(|| Value::Object(Machine::new().read()).to_string()).await.ok()
}

impl Machine {
    fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self { system, components: Components::new_with_refreshed_list(), disks: Disks::new_with_refreshed_list(), slow: None }
    }

    fn read(&mut self) -> Map<String, Value> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        if self.slow.is_none_or(|last| last.elapsed() >= SLOW) {
            self.slow = Some(Instant::now());
            self.components.refresh(false);
            self.disks.refresh(false);
        }
        let (total, used) = (self.system.total_memory(), self.system.used_memory());
        let load = System::load_average();
        let mut readings = Map::new();
        let mut put = |name: &str, value: Value| drop(readings.insert(name.into(), value));
        put("cpu_percent", rounded(f64::from(self.system.global_cpu_usage())));
        put("memory_used_bytes", json!(used));
        put("memory_total_bytes", json!(total));
        put("memory_percent", percent(used, total));
        put("load_1", rounded(load.one));
        put("load_5", rounded(load.five));
        put("load_15", rounded(load.fifteen));
        put("uptime_secs", json!(System::uptime()));
        // Machines without a sensor, and virtual ones, have none: the member is then left out.
        let hottest = self.components.iter().filter_map(sysinfo::Component::temperature).filter(|t| t.is_finite()).reduce(f32::max);
        if let Some(hottest) = hottest {
            put("temperature_celsius", rounded(f64::from(hottest)));
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.mount_point() == Path::new("/")).or_else(|| self.disks.first()) {
            let (total, free) = (disk.total_space(), disk.available_space());
            put("disk_free_bytes", json!(free));
            put("disk_percent", percent(total.saturating_sub(free), total));
        }
        readings
    }
}

fn percent(part: u64, whole: u64) -> Value {
    if whole == 0 { json!(0) } else { rounded(part as f64 * 100.0 / whole as f64) }
}

/// Two digits: more is noise, and bytes on the air.
fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_a_load() {
        let readings = Machine::new().read();
        assert!(readings["memory_total_bytes"].as_u64().unwrap() > 0);
        let percent = readings["memory_percent"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&percent));
        assert!((0.0..=100.0).contains(&readings["cpu_percent"].as_f64().unwrap()));
        assert!(readings["load_1"].as_f64().unwrap() >= 0.0);
    }
}
