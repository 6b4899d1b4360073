//! A year of days over partitions: what is too old goes with its partition, and only what a producer wants kept shorter, or has erased, row by row.

use std::collections::BTreeMap;

use motience_limits::quota::{Assigned, Assignments};
use motience_proto::model::{Cursor, DeviceId, LogEpoch, Offset, PlanLimits, ProducerEpoch, RecordId, Role, Seq};
use motience_store::{Config, Erased, HistoryBatch, HistoryQuery, HistoryRow, NewUser};
use motience_testing::Postgres;
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use time::{OffsetDateTime, macros::datetime};

use super::*;

const START: OffsetDateTime = datetime!(2025-01-01 06:00 UTC);
const DAY: Duration = Duration::from_secs(86_400);
const DAYS: i64 = 365;
/// Days that the platform keeps.
const PLATFORM: i64 = 30;
const SHORT: i64 = 7;
/// Days that a producer may choose to keep.
const LONG: i64 = 90;

/// A platform whose days are played.
struct Year {
    trimmer: Trimmer,
    look: Look,
    /// Offsets of records that have come, by producer.
    come: BTreeMap<ProducerId, u64>,
}

impl Year {
    async fn begin(config: &Config, clock: Clock) -> Self {
        let store = Store::open(config).await.unwrap();
        let platform = Some(DAY * u32::try_from(PLATFORM).unwrap());
        let policy = Policy {
            choice: Choice { history_age: Some(DAY * u32::try_from(LONG).unwrap()), ..Choice::default() },
            log: log::Retention::default(),
            history: platform,
            quotas: motience_limits::quota::Quotas::default(),
            together: crate::kept_together::Together::default(),
            turn: Arc::default(),
        };
        Self { trimmer: Trimmer { store, clock, policy }, look: Look::Now, come: BTreeMap::new() }
    }

    async fn producer(&mut self, name: &str) -> ProducerId {
        let new = NewUser {
            username: name.to_owned(),
            password_hash: "none".to_owned(),
            role: Role::Producer,
            device_id: None,
            strict_device: false,
        };
        let producer = self.trimmer.store.create_user(new).await.unwrap().id.producer();
        self.come.insert(producer, 0);
        producer
    }

    /// A record of each producer and of each of two devices comes.
    async fn records(&mut self) {
        let (store, now) = (&self.trimmer.store, self.trimmer.clock.now());
        for (&producer, come) in &mut self.come {
            let rows: Vec<_> = ["a", "b"].into_iter().map(|device| row(come, device, now)).collect();
            let (log, expected) = (store.log_id(producer.user()).await.unwrap().unwrap(), store.history_cursor(producer).await.unwrap());
            let batch = HistoryBatch { producer, log, expected, cursor: rows[1].place, rows };
            assert_eq!(store.keep_history(&[batch]).await.unwrap().rows, 2);
        }
    }

    async fn round(&mut self) -> Removed {
        self.trimmer.round(&mut self.look).await.unwrap()
    }

    /// The days of a producer's rows, with the device, counted back from now.
    async fn ages(&self, producer: ProducerId) -> Vec<(i64, String)> {
        let rows = self.trimmer.store.history(producer, &HistoryQuery::default()).await.unwrap();
        let now = self.trimmer.clock.now();
        rows.into_iter().map(|row| ((now - row.received_at.unwrap()).whole_days(), row.device_id)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_year_of_days_goes_partition_by_partition() {
    let postgres = Postgres::start().await;
    let (clock, time) = Clock::manual(START);
    let mut year = Year::begin(&Config::Postgres { url: postgres.url().into(), max_connections: 3 }, clock).await;
    let (short, usual) = (year.producer("short").await, year.producer("usual").await);
    let own = OwnRetention { history_age: Some(DAY * u32::try_from(SHORT).unwrap()), ..OwnRetention::default() };
    year.trimmer.store.set_retention(short, &own).await.unwrap();
    let mut removed = Removed::default();
    for day in 0..DAYS {
        year.records().await;
        // Every other day, for the time that it takes: each round makes and drops tables.
        let round = if day % 2 == 0 { year.round().await } else { Removed::default() };
        removed = Removed { partitions: removed.partitions + round.partitions, rows: removed.rows + round.rows };
        if day == 200 {
            let erased = Erased { device: Some("a".to_owned()), from: Some(START + DAY * 180), to: None, ..Erased::default() };
            let erasure = year.trimmer.store.begin_record_erasure(usual, &erased, None, year.trimmer.clock.now()).await.unwrap().unwrap();
            assert_eq!(year.trimmer.store.erase_history(&erasure).await.unwrap(), 21);
        }
        if day % 50 == 0 || day == 200 {
            let ages = year.ages(short).await;
            assert!(
                ages.iter().all(|(age, _)| *age <= SHORT) && ages.len() == 2 * usize::try_from(day.min(SHORT) + 1).unwrap(),
                "{ages:?}"
            );
            let ages = year.ages(usual).await;
            // A row stays until its whole day is too old.
            let oldest = ages.iter().map(|(age, _)| *age).max().unwrap();
            assert!(oldest == day.min(PLATFORM) || oldest == day.min(PLATFORM + 1), "{day}: {oldest}");
            let of_a = ages.iter().filter(|(_, device)| device == "a").count();
            let of_b = ages.len() - of_a;
            assert_eq!(of_b - of_a, if day == 200 { 21 } else { 0 }, "{day}");
        }
        time.advance(DAY);
    }
    // The first partitions end one day apart from the third day on, and are kept for thirty days and the day that they are.
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'data_history'::regclass ORDER BY 1";
    let left: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut connection).await.unwrap();
    assert!((38..=42).contains(&left.len()) && left.last().unwrap() == "data_history_other", "{left:?}");
    assert!(!left.contains(&"data_history_before".to_owned()));
    assert!(removed.partitions > 320, "{removed:?}");
    // Row by row went what one producer keeps shorter, and the few rows of the old table; nothing else did.
    let short_ones = 2 * u64::try_from(DAYS - SHORT - 1).unwrap();
    assert!((short_ones..short_ones + 10).contains(&removed.rows), "{removed:?}, {short_ones}");
    let deleted = "SELECT CAST(SUM(n_tup_del) AS BIGINT) FROM pg_stat_user_tables WHERE relname LIKE 'data_history_2%'";
    let deleted: Option<i64> = sqlx::query_scalar(deleted).fetch_one(&mut connection).await.unwrap();
    assert!(deleted.unwrap_or_default() <= 2 * (PLATFORM + 10), "{deleted:?}");
}

/// A producer that keeps more than the platform holds the partitions, and only its own rows in them.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_keeps_more_than_the_platform_holds_its_partitions() {
    let postgres = Postgres::start().await;
    let (clock, time) = Clock::manual(START);
    let mut year = Year::begin(&Config::Postgres { url: postgres.url().into(), max_connections: 3 }, clock).await;
    let (long, usual) = (year.producer("long").await, year.producer("usual").await);
    // More than it may choose: ninety days of it are kept.
    let own = OwnRetention { history_age: Some(DAY * 365), ..OwnRetention::default() };
    year.trimmer.store.set_retention(long, &own).await.unwrap();
    let mut dropped = 0;
    let last = LONG + 40;
    for day in 0..=last {
        year.records().await;
        if day % 2 == 0 {
            dropped += year.round().await.partitions;
        }
        if day % 20 == 0 || day == last {
            let kept = year.ages(long).await;
            let oldest = kept.iter().map(|(age, _)| *age).max().unwrap();
            assert!(oldest == day.min(LONG) || oldest == day.min(LONG + 1), "{day}: {oldest}");
            assert_eq!(kept.len(), 2 * usize::try_from(oldest + 1).unwrap(), "{day}: every day of it is there");
            let ages = year.ages(usual).await;
            assert_eq!(ages.len(), 2 * usize::try_from(day.min(PLATFORM) + 1).unwrap(), "{day}: {ages:?}");
        }
        time.advance(DAY);
    }
    // The days beyond ninety, of forty, are gone with their partitions, but for those of the first days, which were in the old table.
    assert!((30..=40).contains(&dropped), "{dropped}");
    // Once it keeps no more than others, all that it held goes at once.
    year.trimmer.store.set_retention(long, &OwnRetention::default()).await.unwrap();
    let round = year.round().await;
    let days = u64::try_from(LONG - PLATFORM).unwrap();
    assert!((days - 2..=days + 2).contains(&round.partitions) && round.rows <= 4, "{round:?}");
    let ages = year.ages(long).await;
    assert!(ages.iter().all(|(age, _)| *age <= PLATFORM + 1) && ages.len() >= 2 * usize::try_from(PLATFORM).unwrap(), "{ages:?}");
}

/// Beyond what an organisation may have in the history, those of its producers that have the most give up their oldest rows.
#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_has_so_many_rows_together() {
    let postgres = Postgres::start().await;
    for config in [Config::SqliteMemory, Config::Postgres { url: postgres.url().into(), max_connections: 3 }] {
        let (clock, time) = Clock::manual(START);
        let mut year = Year::begin(&config, clock).await;
        let (large, outside) = (year.producer("large").await, year.producer("outside").await);
        let days = async |year: &mut Year, days: i64| {
            for _ in 0..days {
                year.records().await;
                time.advance(DAY);
            }
        };
        days(&mut year, 15).await;
        let small = year.producer("small").await;
        days(&mut year, 5).await;
        let Trimmer { store, clock, policy } = &year.trimmer;
        let mut bounds = OtherBounds::new(store.clone(), clock.clone(), policy.clone());
        let allow = |rows| {
            let plan = PlanLimits { total_history_rows: Some(rows), ..PlanLimits::default() };
            let assigned = Assigned { own: None, organisation: Some(("o".into(), plan)) };
            let accounts = [large, small].map(|producer| (producer.user(), assigned.clone())).into();
            policy.quotas.assign(Assignments { accounts, default: None });
        };
        for (most, expected) in [(50, [40, 10]), (36, [26, 10]), (12, [6, 6])] {
            allow(most);
            bounds.round().await.unwrap();
            let mut left = Vec::new();
            for producer in [large, small, outside] {
                let ages = year.ages(producer).await;
                assert!(ages.iter().all(|(age, _)| *age <= i64::try_from(ages.len().div_ceil(2)).unwrap()), "the oldest go: {ages:?}");
                left.push(ages.len());
            }
            assert_eq!(left, [expected[0], expected[1], 40], "{config:?}");
        }
    }
}

#[tokio::test]
async fn a_year_of_days_goes_row_by_row_in_a_file() {
    let (clock, time) = Clock::manual(START);
    let mut year = Year::begin(&Config::SqliteMemory, clock).await;
    let usual = year.producer("usual").await;
    for day in 0..DAYS {
        year.records().await;
        let removed = year.round().await;
        assert_eq!(removed, Removed { partitions: 0, rows: if day > PLATFORM { 2 } else { 0 } }, "{day}");
        time.advance(DAY);
    }
    time.advance(DAY * u32::try_from(PLATFORM).unwrap());
    assert!(year.round().await.rows > 0);
    assert!(year.ages(usual).await.is_empty());
}

/// A clock that is years ahead of the database's drops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_does_not_empty_the_history() {
    let postgres = Postgres::start().await;
    let system = Clock::system().now();
    let (clock, time) = Clock::manual(system - DAY * 20);
    let mut year = Year::begin(&Config::Postgres { url: postgres.url().into(), max_connections: 3 }, clock).await;
    let usual = year.producer("usual").await;
    for _ in 0..20 {
        year.round().await;
        year.records().await;
        time.advance(DAY);
    }
    let before = year.ages(usual).await.len();
    time.advance(DAY * 3650);
    assert_eq!(year.round().await.partitions, 0);
    // The old table goes row by row, as it always did.
    assert!(year.ages(usual).await.len() >= before - 8, "{before}");
}

fn row(come: &mut u64, device: &str, received_at: OffsetDateTime) -> HistoryRow {
    *come += 1;
    HistoryRow {
        place: Cursor { log_epoch: LogEpoch(1), offset: Offset(*come) },
        record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(*come) },
        device: DeviceId::new(device).unwrap(),
        timestamp: received_at,
        received_at,
        extra: None,
        data: RawValue::from_string("1".to_owned()).unwrap(),
    }
}
