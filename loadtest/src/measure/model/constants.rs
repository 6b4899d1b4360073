//! The measured costs of single steps: the constants of the model. Each says how it was measured, so that it can be measured again.

use serde::Serialize;

/// By which a constant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Microseconds of a processor.
    #[serde(rename = "us")]
    Micros,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// So many in a second.
    #[serde(rename = "1/s")]
    PerSecond,
}

/// One measured constant.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Constant {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) unit: Unit,
    /// The step that it is the cost of.
    pub(super) of: &'static str,
    /// The command that measured it, or the page that has it.
    pub(super) how: &'static str,
}

impl Constant {
    /// In seconds, bytes, or so many in a second.
    pub(super) fn get(&self) -> f64 {
        match self.unit {
            Unit::Micros => self.value * 1e-6,
            Unit::Bytes | Unit::PerSecond => self.value,
        }
    }
}

macro_rules! constants {
    ($($name:ident = $value:literal $unit:ident, $of:literal, $how:expr;)*) => {
        /// All constants, by name.
        #[derive(Clone, Debug)]
        pub(super) struct Constants {
            $(pub(super) $name: Constant,)*
        }

        impl Default for Constants {
            fn default() -> Self {
                Self {
                    $($name: Constant { name: stringify!($name), value: $value, unit: Unit::$unit, of: $of, how: $how },)*
                }
            }
        }

        impl Constants {
            /// With the costs that Redis has where it has little to do: each write, and each message, is a turn of its loop.
            pub(super) fn lone(&self) -> Self {
                Self { append: self.append_lone, publish: self.publish_lone, ..self.clone() }
            }

            /// Takes another value for one of them; whether there is one of this name.
            pub(super) fn set(&mut self, name: &str, value: f64) -> bool {
                match name {
                    $(stringify!($name) => self.$name.value = value,)*
                    _ => return false,
                }
                true
            }

            /// All of them, in order.
            pub(super) fn all(&self) -> Vec<&Constant> {
                vec![$(&self.$name,)*]
            }
        }
    };
}

/// Measured on the machine of docs/scale.md, by this command.
const MEASURED: &str = "loadtest model-scale --measure";
/// `HSET` by `redis-benchmark`, `PUBLISH` of 60 kB to 20 subscribers, with the processor time of a Redis of its own.
const BENCHMARK: &str = "redis-benchmark";
/// Read in the code.
const CODE: &str = "the code";
const PERFORMANCE: &str = "docs/performance.md";
const SCALE: &str = "docs/scale.md";
const REDIS: &str = "docs/redis.md";
/// A probe of an earlier build.
const PROBE: &str = "a probe of a6e9f33";

constants! {
    append = 37.0 Micros, "a busy Redis: a write of one record of one sender, without followers", MEASURED;
    append_lone = 49.0 Micros, "an idle Redis: likewise", MEASURED;
    append_part = 26.0 Micros, "Redis: one more sender in the same write", MEASURED;
    append_more = 0.5 Micros, "Redis: one more record of the same sender in the same write", PERFORMANCE;
    publish = 0.45 Micros, "a busy Redis: a published record for each node that follows", MEASURED;
    publish_lone = 4.8 Micros, "an idle Redis: likewise", MEASURED;
    bounds = 7.5 Micros, "Redis: the bounds of one log, asked by a node that compares", MEASURED;
    open = 40.0 Micros, "Redis: a session that is opened", PROBE;
    read = 20.0 Micros, "Redis: a read of the history writer", PROBE;
    read_more = 0.6 Micros, "Redis: a record that is read", PROBE;
    report_write = 7.0 Micros, "Redis: a write of reports of devices of one log", BENCHMARK;
    report_more = 1.3 Micros, "Redis: one more report in the same write", BENCHMARK;
    stream_write = 0.012 Micros, "Redis: a report about one producer, in the one write of a node", BENCHMARK;
    ingest = 85.0 Micros, "node: a lone record over QUIC, until it is acknowledged", MEASURED;
    ingest_more = 3.0 Micros, "node: one more record of the same device at once", PERFORMANCE;
    receive = 12.0 Micros, "node: a published record of a producer that is followed here", MEASURED;
    deliver = 7.2 Micros, "node: a lone record to one consumer over WebSocket", MEASURED;
    deliver_more = 0.25 Micros, "node: one more record at once to the same consumer", PERFORMANCE;
    check = 4.6 Micros, "node: a comparison of a followed log with Redis", MEASURED;
    handshake = 1050.0 Micros, "node: a device that connects with a refresh token", PROBE;
    handshake_consumer = 270.0 Micros, "node: a consumer that connects", PROBE;
    argon2 = 22000.0 Micros, "node: a password", PROBE;
    renewal = 567.0 Micros, "PostgreSQL: a refresh token that is renewed", MEASURED;
    history_rows = 45000.0 PerSecond, "rows that one history writer writes, PostgreSQL without fsync", SCALE;
    history_row = 388.0 Bytes, "PostgreSQL: a row of the history with its indexes", PROBE;
    token_row = 379.0 Bytes, "PostgreSQL: a row of a refresh token with its indexes", PROBE;
    device = 68608.0 Bytes, "node: an idle device", PERFORMANCE;
    consumer = 13312.0 Bytes, "node: an idle consumer", PERFORMANCE;
    ring = 786432.0 Bytes, "node: a followed producer that has sent more than RING_BYTES", PROBE;
    node = 62914560.0 Bytes, "node: a process without connections", PROBE;
    log_record = 55.0 Bytes, "Redis: a lone record, beside its message", MEASURED;
    log_batched = 0.18 Bytes, "Redis: of a byte of message, in batches of 32", REDIS;
    log_device = 350.0 Bytes, "Redis: a device that is remembered", REDIS;
    log_report = 600.0 Bytes, "Redis: what is reported of a device", REDIS;
    message_head = 25.0 Bytes, "a message, beside the device's record", CODE;
    published = 150.0 Bytes, "out of Redis: a published record, beside its message", MEASURED;
    appended = 812.0 Bytes, "into Redis: a write of one record, beside its message", MEASURED;
    asked_bytes = 170.0 Bytes, "into Redis: a question for the bounds of a log", MEASURED;
    stream_bytes = 110.0 Bytes, "into Redis: a report about one producer", CODE;
    device_bytes = 300.0 Bytes, "into Redis: a report about one device", CODE;
    uplink = 110.0 Bytes, "into a node: a lone record over QUIC, beside the record, with headers", CODE;
    downlink = 110.0 Bytes, "out of a node: a lone message to a consumer, beside the message, with headers", CODE;
}
