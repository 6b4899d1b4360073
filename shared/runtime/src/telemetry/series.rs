//! Every series of `/metrics`: kind, name, unit, labels, meaning.
//!
//! Each is described by its HELP line, and each counter is there from the start, at zero: Prometheus sees no rise in a series whose
//! first value is 1. `scripts/check-metrics --write` makes the table of `docs/metrics.md` from this one.

use super::Histogram;
use Kind::{Counter, Gauge, Level, Ranked, Times};

/// How a series moves.
enum Kind {
    /// Only ever rises, from zero.
    Counter,
    /// A gauge that counts what is open or held: zero at the start.
    Level,
    /// A gauge that is set to what was measured: absent until then.
    Gauge,
    /// A gauge of the few that matter most: see [`super::rank`].
    Ranked,
    /// A [histogram](super::Histogram) of times.
    Times,
}

/// A label and its values; none: they come from outside this table, so that their series begin with the first event.
type Label = (&'static str, &'static [&'static str]);

/// Kind, name, unit, labels, meaning.
struct Series(Kind, &'static str, &'static str, &'static [Label], &'static str);

const FORMATS: Label = ("format", &["sse", "ndjson"]);
const SIDES: Label = ("side", &["producer", "consumer"]);
const SOCKETS: Label = ("side", &["producer", "consumer", "tunnel"]);
const TRANSPORTS: Label = ("transport", &["quic", "tunnel", "websocket", "webtransport", "http"]);
const SESSIONS: Label = ("transport", &["quic", "tunnel", "websocket", "webtransport"]);
const ENDS: Label = (
    "reason",
    &[
        "done",
        "draining",
        "fenced",
        "forbidden",
        "gone",
        "internal",
        "left",
        "no_hello",
        "protocol",
        "rate_limited",
        "stale",
        "token_ended",
        "too_large",
        "too_many_requests",
        "too_much_at_once",
        "unauthenticated",
        "unavailable",
    ],
);
const UNREAD: Label = ("reason", &["unread"]);
const FORGOTTEN: Label = ("reason", &["count", "bytes", "age"]);
const CLOCKS: Label = ("reason", &["seconds", "ahead"]);
const ROOM: Label = ("reason", &["node", "account", "unauthenticated", "address"]);
const CONSUMER: Label = ("consumer", &[]);
const NAME: Label = ("name", &[]);
const PRODUCER: Label = ("producer", &[]);
const LIMITS: Label = (
    "reason",
    &[
        "control",
        "device",
        "history",
        "history_readers",
        "inflation",
        "login",
        "login_account",
        "login_strangers",
        "logout",
        "password_queue",
        "password_wait",
        "plan",
        "refresh",
        "refresh_account",
        "refresh_login",
        "register",
        "register_account",
        "requests",
        "requests_at_once",
        "reset",
        "scattered",
        "upload_account",
        "upload_connection",
        "upload_node",
    ],
);

const SERIES: &[Series] = &[
    Series(Gauge, "motience_uptime_seconds", "seconds", &[], "Time since the process started."),
    Series(Gauge, "motience_resident_bytes", "bytes", &[], "Resident memory of the process."),
    Series(Counter, "motience_cpu_milliseconds_total", "milliseconds", &[], "Processor time that the process has used."),
    Series(Gauge, "motience_descriptors_allowed", "descriptors", &[], "File descriptors that the process may have open."),
    Series(Level, "motience_draining", "nodes", &[], "1 from the moment at which the node is to leave, and says that it is not ready."),
    Series(Counter, "motience_readiness_checks_total", "checks", &[], "Times that the database and Redis were asked whether they answer."),
    Series(Counter, "motience_trace_spans_total", "spans", &[], "Spans that the collector of traces has taken."),
    Series(
        Counter,
        "motience_trace_spans_dropped_total",
        "spans",
        &[("reason", &["queue", "export"])],
        "Spans dropped: more than wait for the collector of traces, or it did not take them.",
    ),
    Series(Counter, "motience_node_name_conflicts_total", "reports", &[], "Reports of another node that has this node's NODE_NAME."),
    Series(
        Gauge,
        "motience_build_info",
        "1",
        &[("version", &[]), ("commit", &[]), ("features", &[])],
        "1, with the version, the commit and the features of the program.",
    ),
    Series(Gauge, "motience_disk_free_bytes", "bytes", &[], "Room on the disk of DATA_DIR, of a node that keeps files."),
    Series(Level, "motience_connections", "connections", &[], "Open TCP connections to the services' ports."),
    Series(
        Counter,
        "motience_connections_refused_total",
        "connections",
        &[("reason", &["full", "address", "descriptors", "proxy_header"])],
        "TCP connections refused: the port is full, the address has too many, no file descriptor is left, or a balancer says not whom it speaks for.",
    ),
    Series(
        Counter,
        "motience_connections_ended_total",
        "connections",
        &[("reason", &["control_flood", "control_rate", "protocol", "stalled", "too_large", "too_much_at_once"])],
        "Connections ended by the server for a fault of the peer.",
    ),
    Series(
        Times,
        "motience_handshake_seconds",
        "seconds",
        &[("transport", &["quic", "tcp"])],
        "Time of a TLS handshake, over QUIC and over TCP.",
    ),
    Series(
        Counter,
        "motience_handshakes_failed_total",
        "handshakes",
        &[("transport", &["quic", "tcp"]), ("reason", &["tls", "slow", "gone"])],
        "Handshakes that failed: refused by one of the two sides, not ended in time, or the peer was lost.",
    ),
    Series(Counter, "motience_http_requests_total", "requests", &[("version", &["1", "2", "3"])], "HTTP requests to the services."),
    Series(
        Counter,
        "motience_http_responses_total",
        "responses",
        &[("status", &["2xx", "3xx", "4xx", "5xx"])],
        "HTTP responses of the services.",
    ),
    Series(
        Times,
        "motience_http_first_byte_seconds",
        "seconds",
        &[("version", &["1", "2", "3"])],
        "Time from a request's head to the head of its response.",
    ),
    Series(
        Counter,
        "motience_refusals_total",
        "requests",
        &[("status", &[]), ("code", &[])],
        "HTTP requests refused, by the code in the problem document.",
    ),
    Series(
        Counter,
        "motience_sessions_refused_total",
        "sessions",
        &[
            SESSIONS,
            ("code", &["done", "protocol", "unauthenticated", "forbidden", "fenced", "too_large", "rate_limited", "draining", "internal"]),
        ],
        "Sessions refused before they began, by the name of the close code.",
    ),
    Series(Counter, "motience_sessions_ended_total", "sessions", &[SESSIONS, ENDS], "Sessions that ended, by the close reason."),
    Series(Counter, "motience_limited_total", "refusals", &[LIMITS], "Refusals by a limit of rate, memory or turns."),
    Series(
        Counter,
        "motience_quota_exceeded_total",
        "attempts",
        &[("unit", &["records", "bytes", "requests", "records_out", "bytes_out"]), ("holder", &["account", "organisation"])],
        "Attempts beyond a rate of a plan, those that waited and were let in among them.",
    ),
    Series(Counter, "motience_quota_leases_failed_total", "leases", &[], "Leases of shared rates that Redis did not answer in time."),
    Series(Counter, "motience_permits_refused_total", "connections", &[ROOM, TRANSPORTS], "Connections refused for want of a permit."),
    Series(Level, "motience_unauthenticated_connections", "connections", &[], "Connections that have yet to say who they are."),
    Series(Level, "motience_upload_bytes", "bytes", &[], "Memory held for what comes in (UPLOAD_MEMORY)."),
    Series(
        Times,
        "motience_password_seconds",
        "seconds",
        &[("step", &["wait", "hash"])],
        "Time of a login for its turn to have a password hashed, and of the hash (argon2id, or bcrypt of an imported account).",
    ),
    Series(Gauge, "motience_password_queue", "logins", &[], "Logins that wait for their turn (PASSWORD_QUEUE)."),
    Series(Counter, "motience_logins_refused_total", "logins", &[], "Logins with a wrong name or password."),
    Series(Counter, "motience_keys_unknown_total", "keys", &[], "Texts in the form of a key that are no key, looked up in the database."),
    Series(
        Counter,
        "motience_external_tokens_total",
        "tokens",
        &[("outcome", &["taken", "invalid_token", "token_expired", "no_role", "issuer_away"])],
        "Access tokens of other issuers (OIDC_ISSUERS), by what became of them.",
    ),
    Series(
        Counter,
        "motience_issuer_keys_fetched_total",
        "fetches",
        &[("outcome", &["done", "failed"])],
        "Fetches of the keys of other issuers.",
    ),
    Series(Counter, "motience_refreshes_repeated_total", "refreshes", &[], "Refresh tokens used again within JWT_REFRESH_LEEWAY."),
    Series(Level, "motience_quic_connections", "connections", &[], "Devices and native consumers connected over QUIC."),
    Series(Counter, "motience_quic_retries_total", "handshakes", &[], "QUIC peers that had to prove their address first."),
    Series(Counter, "motience_quic_refused_total", "handshakes", &[], "QUIC peers refused before their handshake."),
    Series(
        Counter,
        "motience_quic_early_data_total",
        "connections",
        &[("ticket", &["first", "again", "unknown"])],
        "First flights with data to nodes that share tickets: acted on at once, or after the handshake.",
    ),
    Series(Counter, "motience_quic_let_go_total", "connections", &[UNREAD], "QUIC connections ended because a stream was not read."),
    Series(
        Counter,
        "motience_quic_records_total",
        "records",
        &[SIDES],
        "Records received from devices and sent to consumers over QUIC (motience/1).",
    ),
    Series(Counter, "motience_quic_bytes_total", "bytes", &[SIDES], "Bytes of records received and sent over QUIC (motience/1)."),
    Series(Level, "motience_http3_connections", "connections", &[], "Open HTTP/3 connections."),
    Series(Level, "motience_webtransport_sessions", "sessions", &[], "Open WebTransport sessions."),
    Series(
        Counter,
        "motience_webtransport_records_total",
        "records",
        &[SIDES],
        "Records received from producers and sent to consumers over WebTransport.",
    ),
    Series(Counter, "motience_webtransport_bytes_total", "bytes", &[SIDES], "Bytes of records received and sent over WebTransport."),
    Series(
        Counter,
        "motience_webtransport_let_go_total",
        "sessions",
        &[UNREAD],
        "WebTransport sessions ended because a stream was not read.",
    ),
    Series(Level, "motience_websocket_connections", "connections", &[SOCKETS], "Open WebSocket connections."),
    Series(
        Counter,
        "motience_websocket_records_total",
        "records",
        &[SOCKETS],
        "Records received from producers and tunnels and sent to consumers over WebSocket.",
    ),
    Series(Counter, "motience_websocket_bytes_total", "bytes", &[SOCKETS], "Bytes of records received and sent over WebSocket."),
    Series(Level, "motience_stream_connections", "connections", &[FORMATS], "Open streams of GET /stream."),
    Series(Counter, "motience_stream_records_total", "records", &[FORMATS], "Records sent over GET /stream."),
    Series(Counter, "motience_stream_bytes_total", "bytes", &[FORMATS], "Bytes sent over GET /stream."),
    Series(
        Counter,
        "motience_upload_records_total",
        "records",
        &[("outcome", &["accepted", "rejected"])],
        "Records of POST /data, accepted or rejected.",
    ),
    Series(
        Counter,
        "motience_records_received_total",
        "records",
        &[],
        "Records received over motience/1, repeated and refused ones among them.",
    ),
    Series(
        Counter,
        "motience_records_repeated_total",
        "records",
        &[],
        "Records of motience/1 that the log had already: redundant transmissions, or sent again after a reconnect.",
    ),
    Series(Counter, "motience_records_refused_total", "records", &[], "Records of motience/1 that are no records."),
    Series(
        Counter,
        "motience_records_skipped_total",
        "records",
        &[],
        "Record numbers that devices gave up for want of room or after damage.",
    ),
    Series(
        Counter,
        "motience_records_misdated_total",
        "records",
        &[CLOCKS],
        "Records whose timestamp cannot be right: seconds in the place of milliseconds, or ahead of CLOCK_AHEAD_LIMIT.",
    ),
    Series(Counter, "motience_records_appended_total", "records", &[], "Records appended to the log, by all transports."),
    Series(
        Times,
        "motience_append_seconds",
        "seconds",
        &[("durability", &["memory", "file", "redis", "replicas"])],
        "Time of one write to the log, until what was written is as durable as an acknowledgement says.",
    ),
    Series(Counter, "motience_append_retries_total", "writes", &[], "Writes to the log that failed and were tried again."),
    Series(Gauge, "motience_append_queue_groups", "groups", &[], "Groups of records that wait for the log's writers (APPEND_QUEUE)."),
    Series(Gauge, "motience_append_queue_bytes", "bytes", &[], "Bytes of the records in them (APPEND_QUEUE_BYTES)."),
    Series(
        Times,
        "motience_delivery_seconds",
        "seconds",
        &[],
        "Time from a record's entry into the log, to the millisecond, until the first consumer of this node takes it.",
    ),
    Series(
        Counter,
        "motience_gaps_told_total",
        "notices",
        &[("cause", &["retention", "damaged", "erased"])],
        "Times that a consumer was told that records are gone.",
    ),
    Series(Counter, "motience_resets_told_total", "notices", &[], "Times that a consumer was told that a log began another epoch."),
    Series(
        Ranked,
        "motience_producer_rate",
        "records per second",
        &[PRODUCER],
        "Records that a producer has sent to this node in the last ten seconds: those that send most.",
    ),
    Series(
        Ranked,
        "motience_device_rate",
        "records per second",
        &[PRODUCER, ("device", &[])],
        "Records that a device has sent to this node in the last ten seconds: those that send most.",
    ),
    Series(Counter, "motience_latest_received_total", "records", &[], "Records of the lane 'latest' received as datagrams."),
    Series(
        Counter,
        "motience_latest_missing_total",
        "records",
        &[],
        "Datagrams of the lane 'latest' that never came, by the gaps in their numbers.",
    ),
    Series(
        Counter,
        "motience_latest_dropped_total",
        "records",
        &[],
        "Datagrams dropped because a newer one came, the log's writer was behind, or no room was left.",
    ),
    Series(Counter, "motience_log_damaged_records_total", "records", &[], "Records of the log's file that cannot be read."),
    Series(
        Counter,
        "motience_log_rebuilds_total",
        "rebuilds",
        &[],
        "Times that a damaged file of the log was made anew from what can be read.",
    ),
    Series(Counter, "motience_log_segments_removed_total", "segments", &[], "Segments of the log that were removed."),
    Series(
        Times,
        "motience_log_commit_seconds",
        "seconds",
        &[],
        "Time of a write to the log's segments with its sync, for all that had gathered.",
    ),
    Series(Counter, "motience_log_syncs_total", "syncs", &[], "Times that the log was synced to disk, each for all that had gathered."),
    Series(Counter, "motience_log_written_bytes_total", "bytes", &[], "Bytes written to the log's segments."),
    Series(
        Gauge,
        "motience_log_retention_held",
        "logs",
        &[],
        "Logs that remove nothing because of age until an operator has confirmed the clock.",
    ),
    Series(
        Counter,
        "motience_log_sessions_forgotten_total",
        "devices",
        &[FORGOTTEN],
        "Devices whose dedup window was forgotten, by the bound that they exceeded.",
    ),
    Series(
        Counter,
        "motience_log_given_up_total",
        "records",
        &[("reason", &["memory"])],
        "Records removed before their time because Redis was full.",
    ),
    Series(
        Ranked,
        "motience_durable_lag_records",
        "records",
        &[CONSUMER, NAME, PRODUCER],
        "Records that a durable consumer has yet to confirm: those furthest behind.",
    ),
    Series(
        Ranked,
        "motience_durable_lag_seconds",
        "seconds",
        &[CONSUMER, NAME, PRODUCER],
        "Age of the oldest record that a durable consumer has yet to confirm.",
    ),
    Series(
        Ranked,
        "motience_durable_cut_seconds",
        "seconds",
        &[CONSUMER, NAME, PRODUCER, ("bound", &[])],
        "Time until retention removes records that a durable consumer has yet to confirm, because of their age or their bytes: those that are \
         cut first.",
    ),
    Series(
        Ranked,
        "motience_retention_cut_seconds",
        "seconds",
        &[PRODUCER, ("bound", &[])],
        "Time until retention removes the oldest record of a log that grows by what comes to this node, because of its age or of the log's bytes: first those that bytes come \
         to first.",
    ),
    Series(Gauge, "motience_durable_cursors", "cursors", &[], "Named cursors that were compared with their logs at the last look."),
    Series(Counter, "motience_log_disagreements_total", "logs", &[], "Times that more had been published than the log has."),
    Series(
        Times,
        "motience_redis_seconds",
        "seconds",
        &[("wait", &["answer", "replicas"])],
        "Time of Redis for an answer, and of its replicas to have what was written.",
    ),
    Series(
        Counter,
        "motience_redis_connections_total",
        "connections",
        &[("use", &["commands", "push", "reads", "replicas"])],
        "Connections made to Redis: more than one of a kind means that the one before broke.",
    ),
    Series(Gauge, "motience_redis_subscribed", "0 or 1", &[], "1 while Redis sends what other nodes publish."),
    Series(Gauge, "motience_redis_silent_seconds", "seconds", &[], "Time since something last came by that connection."),
    Series(Gauge, "motience_redis_used_bytes", "bytes", &[], "Memory that Redis uses."),
    Series(Gauge, "motience_redis_limit_bytes", "bytes", &[], "The maxmemory of Redis; 0: none."),
    Series(Gauge, "motience_redis_budget_bytes", "bytes", &[], "Memory in use at which the largest logs give up their oldest records."),
    Series(Gauge, "motience_redis_evicted_keys", "keys", &[], "Keys that Redis has evicted since it started: lost records."),
    Series(
        Gauge,
        "motience_redis_shards_away",
        "servers",
        &[],
        "Redis servers that took no records when the node was last asked whether it is ready.",
    ),
    Series(
        Gauge,
        "motience_redis_hazard",
        "0 or 1",
        &[("reason", &["evicts", "not_persistent"])],
        "1 where the settings of Redis can lose acknowledged records.",
    ),
    Series(
        Counter,
        "motience_redis_refusals_total",
        "commands",
        &[("reason", &["channel", "full"])],
        "Commands that Redis refused: a channel that the ACL forbids, or a write without room.",
    ),
    Series(Counter, "motience_redis_refused_messages_total", "messages", &[], "Messages on a channel of ours that no node sealed."),
    Series(
        Counter,
        "motience_redis_steps_failed_total",
        "steps",
        &[],
        "Parts of appends that failed after the records were in the log: publishing, trimming.",
    ),
    Series(Times, "motience_database_seconds", "seconds", &[], "Time of a call to the database, with its wait for a connection."),
    Series(
        Times,
        "motience_database_wait_seconds",
        "seconds",
        &[],
        "Wait for a connection of the pool: one is taken and given back every five seconds.",
    ),
    Series(
        Gauge,
        "motience_database_connections",
        "connections",
        &[("state", &["open", "idle"])],
        "Connections of the pool, and those of them that nobody uses (DB_MAX_CONNECTIONS).",
    ),
    Series(
        Counter,
        "motience_database_connections_dropped_total",
        "connections",
        &[],
        "Idle connections to PostgreSQL that no longer answered or took no writes.",
    ),
    Series(
        Gauge,
        "motience_database_replica_up",
        "1",
        &[],
        "1 while the history is read from the read replica (DATABASE_READ_URL), 0 while it cannot be.",
    ),
    Series(
        Gauge,
        "motience_database_replica_lag_seconds",
        "seconds",
        &[],
        "How far the read replica was behind when it was last looked at.",
    ),
    Series(
        Counter,
        "motience_history_reads_total",
        "parts",
        &[("server", &["replica", "primary"])],
        "Parts of the history that were read where there is a read replica: from it, or from the database itself, as it was away or too far behind.",
    ),
    Series(
        Counter,
        "motience_history_partitions_dropped_total",
        "partitions",
        &[],
        "Partitions of data_history (PostgreSQL) that were dropped because nobody kept anything in them.",
    ),
    Series(Counter, "motience_history_rows_total", "rows", &[], "Rows written to data_history."),
    Series(Counter, "motience_history_batches_total", "transactions", &[], "Transactions that wrote rows to data_history."),
    Series(
        Gauge,
        "motience_history_waiting_seconds",
        "seconds",
        &[],
        "How long the history writer has been unable to write; 0: it writes.",
    ),
    Series(Gauge, "motience_history_partitions", "partitions", &[], "Partitions of data_history (PostgreSQL)."),
    Series(Gauge, "motience_history_lag_records", "records", &[], "Records of the logs that are not in the history yet."),
    Series(
        Gauge,
        "motience_history_lag_seconds",
        "seconds",
        &[],
        "Age of the oldest record of the last batch that was written, while there are more; 0: all are written.",
    ),
    Series(Counter, "motience_history_missed_total", "records", &[], "Records that retention removed before they were written to history."),
    Series(
        Counter,
        "motience_usage_missed_total",
        "records",
        &[],
        "Records that retention removed before they were counted (COUNT_USAGE).",
    ),
    Series(Counter, "motience_history_moved_total", "logs", &[], "Times that another node had written a history further than expected."),
    Series(Counter, "motience_history_scanned_bytes_total", "bytes", &[], "Bytes of history that were read to find a time."),
];

/// Describes all series, and begins those that count.
pub(super) fn register() {
    for Series(kind, name, unit, labels, meaning) in SERIES {
        let help = format!("{meaning} Unit: {unit}.");
        match kind {
            Times => combinations(labels).iter().for_each(|labels| drop(Histogram::of(name, labels))),
            Ranked => {}
            Counter => {
                metrics::describe_counter!(*name, help);
                combinations(labels).iter().for_each(|labels| metrics::counter!(*name, labels).increment(0));
            }
            Level => {
                metrics::describe_gauge!(*name, help);
                combinations(labels).iter().for_each(|labels| metrics::gauge!(*name, labels).increment(0));
            }
            Gauge => metrics::describe_gauge!(*name, help),
        }
    }
}

/// The ranked series.
pub(super) fn ranked() -> impl Iterator<Item = &'static str> {
    SERIES.iter().filter(|series| matches!(series.0, Ranked)).map(|series| series.1)
}

/// The HELP line and the names of the labels of a series of the table.
pub(super) fn about(name: &str) -> (String, Vec<&'static str>) {
    let Some(Series(_, name, unit, labels, meaning)) = SERIES.iter().find(|series| series.1 == name) else { return Default::default() };
    (format!("# HELP {name} {meaning} Unit: {unit}.\n"), labels.iter().map(|(label, _)| *label).collect())
}

/// Each choice of one value for each label; none where a label's values are not in the table.
fn combinations(labels: &[Label]) -> Vec<Vec<(&'static str, &'static str)>> {
    labels.iter().fold(vec![Vec::new()], |chosen, (label, values)| {
        let with = |value: &&'static str| chosen.iter().map(|before| [&before[..], &[(*label, *value)]].concat()).collect::<Vec<_>>();
        values.iter().flat_map(with).collect()
    })
}

#[cfg(test)]
mod tests {
    use crate::telemetry::render;

    #[test]
    fn counters_begin_at_zero_with_every_label_that_is_known() {
        let text = render();
        for line in [
            "# HELP motience_append_retries_total Writes to the log that failed and were tried again. Unit: writes.",
            "motience_append_retries_total 0",
            r#"motience_permits_refused_total{reason="account",transport="quic"} 0"#,
            r#"motience_websocket_connections{side="tunnel"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("motience_refusals_total{") && !text.contains("motience_redis_used_bytes "), "{text}");
    }
}
