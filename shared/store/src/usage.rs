//! The tables `usage_hours`, `usage_cursors` and `usage_marks`: records and bytes that went in and out, by hour, each counted once.
//!
//! One transaction writes what is counted, and how far. A crash between two of them therefore neither loses records that are
//! taken in, which are read from the log again, nor counts any twice.

use std::{collections::BTreeMap, ops::RangeInclusive};

use motience_proto::model::{ConsumerId, Cursor, LogEpoch, LogKey, ProducerId, RangeSet, UserId};

use super::{Error, MAX_PAGE, Store, accounts::present_log, cursors::StoredCursor, on, row::row, transaction};

/// Ranges of offsets that are remembered of a consumer and a log. Where there are more, the holes between the oldest count as counted.
const MAX_RANGES: usize = 64;
/// How often a count begins again when another node counts for the same consumer.
const ATTEMPTS: usize = 5;
const HOUR: i64 = 3600;

/// Records of a log that are counted as taken in.
#[derive(Clone, Debug)]
pub struct TakenIn {
    /// The log.
    pub key: LogKey,
    /// How far it must be counted for this to follow; `None`: nothing of it was counted.
    pub expected: Option<Cursor>,
    /// How far it is counted after this.
    pub cursor: Cursor,
    /// By second since 1970 of arrival, cut to the hour, and by device: records and bytes.
    pub counts: BTreeMap<(i64, String), (u64, u64)>,
}

/// Records that were given out to a consumer, out of a run of offsets of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenOut {
    /// Who got them.
    pub consumer: ConsumerId,
    /// The producer of the records.
    pub producer: ProducerId,
    /// The epoch of the log.
    pub log_epoch: LogEpoch,
    /// The run: records in it that are not counted were not for the consumer.
    pub offsets: RangeInclusive<u64>,
    /// When, in seconds since 1970.
    pub at: i64,
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Which usage is asked for.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Of these accounts; none: of all.
    pub users: Vec<UserId>,
    /// From this second since 1970 on.
    pub from: i64,
    /// Before this one.
    pub to: i64,
    /// Whether hours are summed up.
    pub summed: bool,
}

/// Records of an hour, or of all the time asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageHour {
    /// The account that sent or received them.
    pub user: UserId,
    /// The first second of the hour since 1970; of the first one, where hours are summed up.
    pub hour: i64,
    /// Whether they went out.
    pub out: bool,
    /// The producer of the records.
    pub producer: ProducerId,
    /// The device that sent them; empty for what went out.
    pub device: String,
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

macro_rules! add {
    ($db:expr, $user:expr, $hour:expr, $direction:expr, $device:expr, $producer:expr, $records:expr, $bytes:expr) => {
        sqlx::query(ADD)
            .persistent(false)
            .bind($user)
            .bind($hour)
            .bind($direction)
            .bind($device)
            .bind($producer)
            .bind(i64::try_from($records).unwrap_or(i64::MAX))
            .bind(i64::try_from($bytes).unwrap_or(i64::MAX))
            .execute(&mut *$db)
            .await?
    };
}

impl Store {
    /// Counts what was read from the logs. Returns the producers of whom nothing was counted, because somebody else has counted on from there.
    pub async fn count_taken_in(&self, batches: impl IntoIterator<Item = &TakenIn>) -> Result<Vec<ProducerId>, Error> {
        // One order for all, so that two of them never wait for each other in a circle.
        let mut batches: Vec<&TakenIn> = batches.into_iter().collect();
        batches.sort_by_key(|batch| batch.key.producer);
        transaction!(self, |db| {
            let mut moved = Vec::new();
            for batch in &batches {
                let (producer, log) = (batch.key.producer.0, batch.key.log.0.cast_signed());
                let (epoch, offset) = (batch.cursor.log_epoch.0.cast_signed(), batch.cursor.offset.0.cast_signed());
                let moving = sqlx::query(if batch.expected.is_some() { MOVE } else { BEGIN }).persistent(false);
                let moving = moving.bind(producer).bind(log).bind(epoch).bind(offset);
                let moving = match batch.expected {
                    Some(old) => moving.bind(old.log_epoch.0.cast_signed()).bind(old.offset.0.cast_signed()),
                    None => moving,
                };
                if moving.execute(&mut *db).await?.rows_affected() == 0 {
                    moved.push(batch.key.producer);
                    continue;
                }
                for ((hour, device), (records, bytes)) in &batch.counts {
                    add!(db, producer, hour, "in", device.as_str(), producer, *records, *bytes);
                }
            }
            moved
        })
    }

    /// How far the logs of all producers from `first` to `last`, both included, are counted.
    pub async fn usage_cursors(&self, first: ProducerId, last: ProducerId) -> Result<Vec<(ProducerId, Cursor)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64, i64)>(CURSORS).bind(first.0).bind(last.0).fetch_all(db))?;
        Ok(rows.into_iter().map(|(producer, epoch, offset)| (ProducerId(producer), StoredCursor::new(epoch, offset).into())).collect())
    }

    /// Counts what was given out to one consumer of one producer, each record once, whatever it was given out before. `shared`: the last offset
    /// that an earlier epoch of the log surely shares with the present one. `false`: nothing is counted, because that is needed and not known.
    pub async fn count_given_out(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        given: &[GivenOut],
        shared: impl Fn(LogEpoch) -> Option<u64>,
    ) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS {
            let old =
                on!(self, reader, |db| sqlx::query_as::<_, (i64, String)>(MARKS).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
            let Some((marks, hours)) = counted(old.as_ref(), given, &shared) else { return Ok(false) };
            let written = transaction!(self, |db| {
                let text = marks.1.to_string();
                let marking = sqlx::query(if old.is_some() { MARK } else { FIRST_MARK }).persistent(false);
                let marking = marking.bind(consumer.0).bind(producer.0).bind(marks.0).bind(text.as_str());
                let marking = match &old {
                    Some((epoch, old)) => marking.bind(*epoch).bind(old.as_str()),
                    None => marking,
                };
                let written = marking.execute(&mut *db).await?.rows_affected() > 0;
                if written {
                    for (hour, (records, bytes)) in &hours {
                        add!(db, consumer.0, *hour, "out", "", producer.0, *records, *bytes);
                    }
                }
                written
            })?;
            if written {
                return Ok(true);
            }
        }
        Err(Error::TimedOut)
    }

    /// Usage by account, hour, direction, producer and device, in that order; at most [`MAX_PAGE`] rows after the first `skip`.
    pub async fn usage(&self, query: &UsageQuery, skip: u32) -> Result<Vec<UsageHour>, Error> {
        let users: Vec<String> = query.users.iter().map(|user| user.0.to_string()).collect();
        // Between commas, as a list that both databases can look into.
        let users = format!(",{},", users.join(","));
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(if query.summed { SUMMED } else { HOURS })
            .bind(query.from)
            .bind(query.to)
            .bind(if query.users.is_empty() { "" } else { users.as_str() })
            .bind(i64::from(MAX_PAGE))
            .bind(i64::from(skip))
            .fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }
}

/// The epoch of a log, and the offsets in it that are counted.
type Marks = (i64, RangeSet);
/// Records and bytes by hour.
type Hours = BTreeMap<i64, (u64, u64)>;

/// The marks after what was given out, and what of it is counted by hour: of a run that is known in part a like part. Marks of an earlier epoch hold up
/// to the last offset that both epochs share; `None` where that is not known.
fn counted(old: Option<&(i64, String)>, given: &[GivenOut], shared: &impl Fn(LogEpoch) -> Option<u64>) -> Option<(Marks, Hours)> {
    let (mut epoch, mut marks) = match old {
        Some((epoch, text)) => (*epoch, text.parse().unwrap_or_default()),
        None => (0, RangeSet::new()),
    };
    let mut hours: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    for one in given {
        let of_run = one.log_epoch.0.cast_signed();
        if of_run != epoch {
            let last = if marks.is_empty() { 0 } else { shared(LogEpoch(epoch.cast_unsigned()))? };
            (epoch, marks) = (of_run, up_to(&marks, last));
        }
        let known: u64 = marks
            .iter()
            .map(|range| {
                let (from, to) = (*range.start().max(one.offsets.start()), *range.end().min(one.offsets.end()));
                if from <= to { to - from + 1 } else { 0 }
            })
            .sum();
        let length = one.offsets.end() - one.offsets.start() + 1;
        let part = |count: u64| u64::try_from(u128::from(count) * u128::from(length - known) / u128::from(length)).unwrap_or(count);
        let hour = hours.entry(one.at - one.at.rem_euclid(HOUR)).or_default();
        hour.0 += part(one.records);
        hour.1 += part(one.bytes);
        marks.insert_range(one.offsets.clone());
    }
    while marks.ranges() > MAX_RANGES {
        let mut oldest = marks.iter();
        let (Some(first), Some(second)) = (oldest.next(), oldest.next()) else { break };
        drop(oldest);
        marks.insert_range(*first.start()..=*second.end());
    }
    hours.retain(|_, (records, _)| *records > 0);
    Some(((epoch, marks), hours))
}

/// Those of these offsets that are no later than `last`.
fn up_to(marks: &RangeSet, last: u64) -> RangeSet {
    let mut kept = RangeSet::new();
    for range in marks.iter().filter(|range| *range.start() <= last) {
        kept.insert_range(*range.start()..=last.min(*range.end()));
    }
    kept
}

const ADD: &str = "INSERT INTO usage_hours (user_id, hour, direction, device_id, producer_id, records, bytes) VALUES ($1, $2, $3, $4, $5, $6, $7) \
     ON CONFLICT (user_id, hour, direction, producer_id, device_id) \
     DO UPDATE SET records = usage_hours.records + EXCLUDED.records, bytes = usage_hours.bytes + EXCLUDED.bytes";
/// A row of a log that the number had before is written over.
const BEGIN: &str = "INSERT INTO usage_cursors (producer_id, log_id, log_epoch, log_offset) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (producer_id) DO UPDATE SET log_id = EXCLUDED.log_id, log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset \
     WHERE usage_cursors.log_id <> EXCLUDED.log_id";
const MOVE: &str = "UPDATE usage_cursors SET log_epoch = $3, log_offset = $4 \
     WHERE producer_id = $1 AND log_id = $2 AND log_epoch = $5 AND log_offset = $6";
const CURSORS: &str = concat!(
    "SELECT producer_id, log_epoch, log_offset FROM usage_cursors WHERE producer_id BETWEEN $1 AND $2 AND log_id = ",
    present_log!("usage_cursors.producer_id"),
);
const MARKS: &str = "SELECT log_epoch, counted FROM usage_marks WHERE consumer_id = $1 AND producer_id = $2";
const FIRST_MARK: &str =
    "INSERT INTO usage_marks (consumer_id, producer_id, log_epoch, counted) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
const MARK: &str = "UPDATE usage_marks SET log_epoch = $3, counted = $4 \
     WHERE consumer_id = $1 AND producer_id = $2 AND log_epoch = $5 AND counted = $6";

macro_rules! usage {
    ($hour:literal, $records:literal, $bytes:literal, $group:literal, $order:literal) => {
        concat!(
            "SELECT CAST(user_id AS BIGINT) AS user_id, ",
            $hour,
            " AS hour, direction, device_id, CAST(producer_id AS BIGINT) AS producer_id, ",
            $records,
            " AS records, ",
            $bytes,
            " AS bytes FROM usage_hours WHERE hour >= $1 AND hour < $2 \
             AND ($3 = '' OR $3 LIKE '%,' || CAST(user_id AS VARCHAR(20)) || ',%') ",
            $group,
            " ORDER BY user_id, ",
            $order,
            "direction, producer_id, device_id LIMIT $4 OFFSET $5"
        )
    };
}

const HOURS: &str = usage!("hour", "records", "bytes", "", "hour, ");
const SUMMED: &str = usage!(
    "MIN(hour)",
    "CAST(SUM(records) AS BIGINT)",
    "CAST(SUM(bytes) AS BIGINT)",
    "GROUP BY user_id, direction, producer_id, device_id",
    ""
);

row! {
    struct Row {
        user_id: i64,
        hour: i64,
        direction: String,
        device_id: String,
        producer_id: i64,
        records: i64,
        bytes: i64,
    }
}

impl From<Row> for UsageHour {
    fn from(row: Row) -> Self {
        Self {
            user: UserId(row.user_id),
            hour: row.hour,
            out: row.direction == "out",
            producer: ProducerId(row.producer_id),
            device: row.device_id,
            records: row.records.unsigned_abs(),
            bytes: row.bytes.unsigned_abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(epoch: u64, offsets: RangeInclusive<u64>, at: i64, records: u64) -> GivenOut {
        let (consumer, producer) = (ConsumerId(2), ProducerId(1));
        GivenOut { consumer, producer, log_epoch: LogEpoch(epoch), offsets, at, records, bytes: records * 10 }
    }

    /// No other epoch is known.
    fn one(_: LogEpoch) -> Option<u64> {
        None
    }

    #[test]
    fn what_is_given_out_again_is_not_counted_again() {
        let runs = [given(1, 1..=10, 10, 10), given(1, 5..=14, 20, 10), given(1, 1..=14, 30, 14), given(1, 21..=30, HOUR, 10)];
        let ((epoch, marks), hours) = counted(None, &runs, &one).unwrap();
        assert_eq!((epoch, marks.to_string().as_str(), hours), (1, "1-14,21-30", [(0, (14, 140)), (HOUR, (10, 100))].into()));
        let old = (1, "1-14,21-30".to_owned());
        let (marks, hours) = counted(Some(&old), &[given(1, 11..=24, 0, 14), given(1, 2..=9, 0, 8)], &one).unwrap();
        assert_eq!((marks.1.to_string().as_str(), hours), ("1-30", [(0, (6, 60))].into()));
    }

    #[test]
    fn another_epoch_knows_what_both_share() {
        let old = (1, "1-14,21-30".to_owned());
        let runs = [given(2, 1..=40, 0, 40)];
        assert!(counted(Some(&old), &runs, &one).is_none());
        let (marks, hours) = counted(Some(&old), &runs, &|epoch| (epoch == LogEpoch(1)).then_some(25)).unwrap();
        assert_eq!((marks.0, marks.1.to_string().as_str(), hours), (2, "1-40", [(0, (21, 210))].into()));
    }

    #[test]
    fn marks_are_bounded() {
        let runs: Vec<_> = (0..1000).map(|n| given(1, 10 * n + 1..=10 * n + 1, 0, 1)).collect();
        let ((_, marks), hours) = counted(None, &runs, &one).unwrap();
        assert!(marks.ranges() <= MAX_RANGES && hours[&0] == (1000, 10_000));
    }
}
