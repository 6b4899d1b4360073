//! Spans of times: made ahead of the clock, and dropped once nobody keeps anything of them.

use std::{collections::BTreeSet, time::Duration};

use motience_proto::model::ProducerId;
use sqlx::PgConnection;
use time::{Date, Month, OffsetDateTime, Time};
use tracing::{info, warn};

use super::{AHEAD, HOLDERS, LATE, MADE_AT_ONCE, Partition, WORK_LIMIT, begin, execute, holders, literal, partitions, quoted, within};
use crate::history::rows::key;
use crate::{Error, engine::postgres::Connections, limited};

/// How long the times of one partition are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    days: i64,
}

impl Width {
    /// Of a history that is kept for `age`; `None`: for ever. Ten to fifty partitions or so: rows then stay at most a tenth longer than they
    /// are kept, and a reader who looks into every partition is none the slower.
    pub fn of(age: Option<Duration>) -> Self {
        let days = age.map_or(u64::MAX, |age| age.as_secs() / 86_400);
        Self {
            days: match days {
                0..=70 => 1,
                71..=400 => 7,
                _ => 28,
            },
        }
    }

    /// Whether an age is many times this, so that whole partitions may wait for their last row.
    pub fn is_small_for(self, age: Duration) -> bool {
        age.as_secs() >= self.days.unsigned_abs() * 86_400 * 10
    }

    /// The first boundary after a time: all are counted from one day, whatever the time is.
    pub(super) fn end_after(self, at: OffsetDateTime) -> OffsetDateTime {
        let (day, of_day) = (at.to_offset(time::UtcOffset::UTC).to_julian_day(), self.days);
        let next = (i64::from(day).div_euclid(of_day) + 1) * of_day;
        let date = i32::try_from(next).ok().and_then(|day| Date::from_julian_day(day).ok());
        let last = Date::from_calendar_date(9999, Month::December, 31).expect("a day of that month");
        date.unwrap_or(last).with_time(Time::MIDNIGHT).assume_utc()
    }
}

/// Makes the partitions that are missing up to [`AHEAD`] of `now`.
pub(super) async fn make_ahead(pool: &Connections, now: OffsetDateTime, width: Width) -> Result<(), Error> {
    let found = partitions(pool).await?;
    metrics::gauge!("motience_history_partitions").set(found.len() as f64);
    let Some(mut from) = found.iter().filter_map(|partition| partition.until).max() else { return Ok(()) };
    for _ in 0..MADE_AT_ONCE {
        if from > now + AHEAD {
            break;
        }
        let until = width.end_after(from);
        if !within(WORK_LIMIT, make(pool, from, until)).await? {
            break;
        }
        from = until;
    }
    Ok(())
}

/// Makes one partition, and moves there what `data_history_other` has of its times; `false`: another node is at it.
async fn make(pool: &Connections, from: OffsetDateTime, until: OffsetDateTime) -> Result<bool, Error> {
    let Some(mut transaction) = begin(pool).await? else { return Ok(false) };
    let name = format!("data_history_{:04}{:02}{:02}", from.year(), u8::from(from.month()), from.day());
    let (table, first, end) = (quoted(&name), literal(from), literal(until));
    make_table(&mut transaction, &name).await?;
    // Nobody writes there before the partition is in its place.
    let moved = format!(
        "LOCK TABLE data_history_other IN ACCESS EXCLUSIVE MODE; \
         WITH moved AS (DELETE FROM data_history_other WHERE {0} >= {first} AND {0} < {end} RETURNING *) INSERT INTO {table} SELECT * FROM moved; \
         ALTER TABLE data_history ATTACH PARTITION {table} FOR VALUES FROM ({first}) TO ({end})",
        key!()
    );
    execute(&mut transaction, moved).await?;
    transaction.commit().await?;
    info!(partition = name, "the history has a partition for what comes next");
    Ok(true)
}

/// A table that can be attached, with the indexes that each partition has.
pub(super) async fn make_table(connection: &mut PgConnection, name: &str) -> Result<(), Error> {
    let table = quoted(name);
    let statements = format!(
        "CREATE TABLE {table} (LIKE data_history INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION); \
         ALTER TABLE {table} ADD PRIMARY KEY (producer_id, id); \
         CREATE UNIQUE INDEX ON {table} (producer_id, log_epoch, log_offset); \
         CREATE UNIQUE INDEX ON {table} (producer_id, sender_epoch, sender_seq) WHERE sender_epoch IS NOT NULL; \
         CREATE INDEX ON {table} (producer_id, timestamp); CREATE INDEX ON {table} (producer_id, received_at)"
    );
    execute(connection, statements).await
}

/// Drops the partitions of which nobody keeps anything.
pub(super) async fn drop_old(
    pool: &Connections,
    now: OffsetDateTime,
    before: impl Fn(ProducerId) -> Option<OffsetDateTime> + Send,
) -> Result<u64, Error> {
    // A clock that is ahead must not empty the history: the database's has a say.
    let theirs: OffsetDateTime = limited(async { Ok(sqlx::query_scalar("SELECT now()").fetch_one(pool).await?) }).await?;
    let ahead = (now - theirs).max(time::Duration::ZERO);
    let mut dropped = 0;
    for partition in partitions(pool).await? {
        let Some(until) = partition.until.filter(|until| *until <= now - ahead - LATE) else { continue };
        let holders: BTreeSet<ProducerId> = holders(pool, &partition).await?.into_iter().collect();
        if holders.iter().all(|producer| before(*producer).is_some_and(|before| until <= before - ahead)) {
            match within(WORK_LIMIT, drop(pool, &partition, &holders)).await {
                Ok(true) => {
                    info!(partition = partition.name, "a partition of the history was dropped: nobody keeps anything of its times");
                    metrics::counter!("motience_history_partitions_dropped_total").increment(1);
                    dropped += 1;
                }
                Ok(false) => {}
                Err(e) => warn!(partition = partition.name, error = %e, "an old partition of the history cannot be dropped; trying again"),
            }
        }
    }
    Ok(dropped)
}

/// Whether it was dropped: not while another node is at it, nor when others have got rows in it since.
async fn drop(pool: &Connections, partition: &Partition, holders: &BTreeSet<ProducerId>) -> Result<bool, Error> {
    let Some(mut transaction) = begin(pool).await? else { return Ok(false) };
    execute(&mut transaction, "LOCK TABLE data_history IN ACCESS EXCLUSIVE MODE".to_owned()).await?;
    let table = partition.quoted();
    let now: Vec<i64> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(HOLDERS.replace("{}", &table))).persistent(false).fetch_all(&mut *transaction).await?;
    if now.into_iter().any(|producer| !holders.contains(&ProducerId(producer))) {
        return Ok(false);
    }
    execute(&mut transaction, format!("ALTER TABLE data_history DETACH PARTITION {table}; DROP TABLE {table}")).await?;
    transaction.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn partitions_are_small_beside_the_time_that_they_are_kept() {
        for (days, width) in [(1, 1), (70, 1), (71, 7), (400, 7), (401, 28), (36_500, 28)] {
            let age = DAY * days;
            assert_eq!(Width::of(Some(age)), Width { days: width });
            assert_eq!(Width::of(Some(age)).is_small_for(age), days >= 10, "{days}");
        }
        assert_eq!(Width::of(None), Width { days: 28 });
    }

    #[test]
    fn boundaries_are_the_same_whenever_they_are_asked_for() {
        let (day, week) = (Width { days: 1 }, Width { days: 7 });
        assert_eq!(day.end_after(datetime!(2026-11-27 23:59 UTC)), datetime!(2026-11-28 0:00 UTC));
        assert_eq!(day.end_after(datetime!(2026-11-28 00:30 +01:00)), datetime!(2026-11-28 0:00 UTC));
        let monday = week.end_after(datetime!(2026-11-27 12:00 UTC));
        assert_eq!((monday, monday.weekday()), (datetime!(2026-11-30 0:00 UTC), time::Weekday::Monday));
        assert_eq!(week.end_after(monday), monday + time::Duration::days(7));
        assert_eq!(literal(monday), "'2026-11-30 00:00:00+00'");
    }
}
