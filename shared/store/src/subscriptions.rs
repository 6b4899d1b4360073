//! The table `subscriptions`: who receives whose records, by whose consent, and within which limits.
//!
//! Each change reads the row, decides by [`transition`], and writes the row as a whole if it is still as it was read, together with the act.

use motience_proto::model::{ConsumerId, ProducerId, Status, Subscription, UserId, Visibility};
use motience_runtime::clock::{from_millis, millis};
use serde_json::json;
use time::{OffsetDateTime, PrimitiveDateTime};

use self::transition::{Grant, Move, Next};
use super::{Error, MAX_PAGE, NewAct, Page, Store, acts, from_column, is_storable, on, row::row, transaction};

mod transition;

/// How often a change begins again when others change the same row between its steps.
const ROUNDS: usize = 5;

/// Outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was no such subscription.
    Created,
    /// There was one in another state, or under another grant.
    Reactivated,
    /// The subscription stood so already.
    Unchanged,
}

/// Terms of an approval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// When it ends by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// An agreement as JSON text; `None`: everything.
    pub scope: Option<String>,
}

/// A producer's decision about a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The consumer may have the records, within these limits.
    Approve(Terms),
    /// The consumer's request is refused.
    Deny,
    /// The consumer may have them no longer.
    Revoke,
}

/// A consumer's right to a producer's records, in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The producer.
    pub producer: ProducerId,
    /// The subscription that it comes from.
    pub subscription: i64,
    /// An agreement as JSON text; `None`: everything.
    pub scope: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<OffsetDateTime>,
}

/// The consumers that follow a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followers {
    /// How many they are.
    pub count: u64,
    /// When the first of their rights ends by itself.
    pub until: Option<OffsetDateTime>,
}

/// Which subscriptions of a list are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// Those that stand: active, requested and invited.
    #[default]
    Standing,
    /// Those in one state.
    Only(Status),
    /// All that there ever were.
    All,
}

impl Store {
    /// A consumer subscribes to a producer that is visible so: makes a subscription or a request, or puts an ended one back in force.
    ///
    /// Each step is one statement that checks what it changes, so any number of concurrent calls make one row, and exactly one of
    /// them reports [`Change::Created`]. A row is inserted only where none was found: on PostgreSQL even an insertion that finds the row
    /// uses up an id.
    pub async fn subscribe(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        visibility: Visibility,
        now: OffsetDateTime,
    ) -> Result<(Subscription, Change), Error> {
        self.between(consumer, producer, Some(consumer.user()), &Move::Subscribe(visibility), now).await
    }

    /// A consumer ends a subscription, withdraws a request, or declines an invitation; `None` where there was none. The row stays.
    pub async fn unsubscribe(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        now: OffsetDateTime,
    ) -> Result<Option<Subscription>, Error> {
        match self.between(consumer, producer, Some(consumer.user()), &Move::Unsubscribe, now).await {
            Ok((ended, _)) => Ok(Some(ended)),
            Err(Error::NoSubscription | Error::WrongState(_) | Error::Unstorable(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A producer approves a consumer, whether or not it asked.
    pub async fn invite(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        terms: Terms,
        by: Option<UserId>,
        now: OffsetDateTime,
    ) -> Result<(Subscription, Change), Error> {
        self.between(consumer, producer, by, &Move::Invite(terms), now).await
    }

    /// A producer, or an operator for it, decides about a subscription.
    pub async fn decide(
        &self,
        id: i64,
        decision: Decision,
        by: Option<UserId>,
        now: OffsetDateTime,
    ) -> Result<(Subscription, Change), Error> {
        let step = match decision {
            Decision::Approve(terms) => Move::Approve(terms),
            Decision::Deny => Move::Deny,
            Decision::Revoke => Move::Revoke,
        };
        for _ in 0..ROUNDS {
            let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(BY_ID).bind(id).fetch_optional(db))?;
            let row = row.ok_or(Error::NoSubscription)?;
            if let Some(done) = self.step(&row, by, &step, now).await? {
                return Ok(done);
            }
        }
        Err(Error::TimedOut)
    }

    /// The subscription with this id.
    pub async fn subscription(&self, id: i64, now: OffsetDateTime) -> Result<Option<Subscription>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BY_ID).bind(id).fetch_optional(db))?;
        Ok(row.map(|row| row.at(now)))
    }

    /// The subscription of a consumer to a producer; `None`: there never was one.
    pub async fn subscription_between(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        now: OffsetDateTime,
    ) -> Result<Option<Subscription>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BETWEEN).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
        Ok(row.map(|row| row.at(now)))
    }

    /// State of the subscription of a consumer to a producer; `None`: there never was one.
    pub async fn status(&self, consumer: ConsumerId, producer: ProducerId, now: OffsetDateTime) -> Result<Option<Status>, Error> {
        Ok(self.subscription_between(consumer, producer, now).await?.map(|subscription| subscription.status))
    }

    /// Subscriptions to a producer that were asked for or decided at `changed` or later, or have come to their end after `ended`, by id; as many as
    /// a page has.
    pub async fn subscribers_since(
        &self,
        producer: ProducerId,
        changed: Option<OffsetDateTime>,
        ended: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Result<Vec<Subscription>, Error> {
        let changed = changed.map_or(i64::MAX, millis);
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(SINCE)
            .bind(producer.0)
            .bind(changed)
            .bind(millis(ended))
            .bind(millis(now))
            .bind(i64::from(MAX_PAGE))
            .fetch_all(db))?;
        Ok(rows.into_iter().map(|row| row.at(now)).collect())
    }

    /// Subscriptions of a consumer, by id.
    pub async fn subscriptions_of(
        &self,
        consumer: ConsumerId,
        wanted: Wanted,
        page: Page,
        now: OffsetDateTime,
    ) -> Result<Vec<Subscription>, Error> {
        self.list(OF_CONSUMER, consumer.0, wanted, page, now).await
    }

    /// Subscriptions to a producer, by id.
    pub async fn subscribers_of(
        &self,
        producer: ProducerId,
        wanted: Wanted,
        page: Page,
        now: OffsetDateTime,
    ) -> Result<Vec<Subscription>, Error> {
        self.list(OF_PRODUCER, producer.0, wanted, page, now).await
    }

    /// Subscriptions of everybody, by id.
    pub async fn subscriptions(&self, wanted: Wanted, page: Page, now: OffsetDateTime) -> Result<Vec<Subscription>, Error> {
        self.list(OF_ANYBODY, 0, wanted, page, now).await
    }

    /// The rights of a consumer that are in force: one for each producer that it follows, in order of subscription.
    pub async fn rights(&self, consumer: ConsumerId, now: OffsetDateTime) -> Result<Vec<Right>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, RightRow>(RIGHTS).bind(consumer.0).bind(millis(now)).fetch_all(db))?;
        Ok(rows.into_iter().map(Right::from).collect())
    }

    /// A consumer's right to one producer's records; `None`: it has none now.
    pub async fn right(&self, consumer: ConsumerId, producer: ProducerId, now: OffsetDateTime) -> Result<Option<Right>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, RightRow>(RIGHT)
            .bind(consumer.0)
            .bind(millis(now))
            .bind(producer.0)
            .fetch_optional(db))?;
        Ok(row.map(Right::from))
    }

    /// All producers that a consumer follows.
    pub async fn follows(&self, consumer: ConsumerId, now: OffsetDateTime) -> Result<Vec<ProducerId>, Error> {
        Ok(self.rights(consumer, now).await?.into_iter().map(|right| right.producer).collect())
    }

    /// How many subscriptions of a consumer are in force or asked for.
    pub async fn wanted_count(&self, consumer: ConsumerId, now: OffsetDateTime) -> Result<u64, Error> {
        let count = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(WANTED).bind(consumer.0).bind(millis(now)).fetch_one(db))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many of all consumers that an organisation owns.
    pub async fn organisation_wanted_count(&self, organisation: &str, now: OffsetDateTime) -> Result<u64, Error> {
        let count = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(WANTED_BY_ORGANISATION)
            .bind(organisation)
            .bind(millis(now))
            .fetch_one(db))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many consumers follow a producer.
    pub async fn follower_count(&self, producer: ProducerId, now: OffsetDateTime) -> Result<u64, Error> {
        Ok(self.followers(producer, now).await?.count)
    }

    /// How many consumers follow a producer, and when that number falls by itself.
    pub async fn followers(&self, producer: ProducerId, now: OffsetDateTime) -> Result<Followers, Error> {
        let (count, until) =
            on!(self, reader, |db| sqlx::query_as::<_, (i64, Option<i64>)>(COUNT).bind(producer.0).bind(millis(now)).fetch_one(db))?;
        Ok(Followers { count: u64::try_from(count).unwrap_or(0), until: until.map(from_millis) })
    }

    async fn list(
        &self,
        statement: &'static str,
        id: i64,
        wanted: Wanted,
        page: Page,
        now: OffsetDateTime,
    ) -> Result<Vec<Subscription>, Error> {
        let state = match wanted {
            Wanted::Standing => "",
            Wanted::Only(status) => status.as_str(),
            Wanted::All => "all",
        };
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(statement)
            .bind(id)
            .bind(millis(now))
            .bind(page.after)
            .bind(page.limit())
            .bind(state)
            .fetch_all(db))?;
        Ok(rows.into_iter().map(|row| row.at(now)).collect())
    }

    /// Makes a move between two accounts, whether or not there is a row yet.
    async fn between(
        &self,
        consumer: ConsumerId,
        producer: ProducerId,
        by: Option<UserId>,
        step: &Move,
        now: OffsetDateTime,
    ) -> Result<(Subscription, Change), Error> {
        for (id, field) in [(consumer.0, "consumer_id"), (producer.0, "producer_id")] {
            if !is_storable(id) {
                return Err(Error::Unstorable(field));
            }
        }
        for _ in 0..ROUNDS {
            let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(BETWEEN).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
            let Some(row) = row else {
                let Next::To(status, grant) = transition::next(None, step, by, now)? else { return Err(Error::NoSubscription) };
                let write = Write { statement: INSERT, row: None, ids: (consumer.0, producer.0), status, grant };
                if let Some(row) = self.write(write, by, step, now).await? {
                    return Ok((row.at(now), Change::Created));
                }
                continue;
            };
            if let Some(done) = self.step(&row, by, step, now).await? {
                return Ok(done);
            }
        }
        Err(Error::TimedOut)
    }

    /// Makes a move from the row as it was read; `None`: it is another by now.
    async fn step(&self, row: &Row, by: Option<UserId>, step: &Move, now: OffsetDateTime) -> Result<Option<(Subscription, Change)>, Error> {
        let subscription = row.clone().at(now);
        match transition::next(Some(&subscription), step, by, now)? {
            Next::Stays => Ok(Some((subscription, Change::Unchanged))),
            Next::To(status, grant) => {
                let write = Write { statement: UPDATE, row: Some(row), ids: (row.consumer_id, row.producer_id), status, grant };
                let written = self.write(write, by, step, now).await?;
                Ok(written.map(|row| (row.at(now), Change::Reactivated)))
            }
        }
    }

    /// Writes a row and records the act, both or neither; `None`: the row was not as expected.
    async fn write(&self, write: Write<'_>, by: Option<UserId>, step: &Move, now: OffsetDateTime) -> Result<Option<Row>, Error> {
        let Write { statement, row: old, ids: (consumer, producer), status, grant } = write;
        let stored = status_column(status, &grant);
        // Every statement has all of these, so that one list of values serves them; an insertion makes nothing of the old row's.
        transaction!(self, |db| {
            let row = sqlx::query_as::<_, Row>(statement)
                .persistent(false)
                .bind(consumer)
                .bind(producer)
                .bind(stored)
                .bind(grant.requested_at.map(millis))
                .bind(grant.decided_at.map(millis))
                .bind(grant.decided_by.map(|user| user.0))
                .bind(grant.expires_at.map(millis))
                .bind(&grant.scope)
                .bind(old.and_then(|row| row.status.as_deref()))
                .bind(old.and_then(|row| row.decided_at))
                .bind(old.and_then(|row| row.expires_at))
                .bind(old.and_then(|row| row.scope.as_deref()))
                .fetch_optional(&mut *db)
                .await?;
            if let Some(row) = &row {
                let act = act(row, by, step, now);
                acts::insert!(acts::NewRow::done(&act), db);
            }
            row
        })
    }
}

/// A row to be written.
struct Write<'r> {
    statement: &'static str,
    /// As it was read; `None`: there is none.
    row: Option<&'r Row>,
    ids: (i64, i64),
    status: Status,
    grant: Grant,
}

/// The word of a state in the database. A subscription in force within limits has a word of its own there, which programs from before limits
/// take for ended; one that has expired keeps it.
fn status_column(status: Status, grant: &Grant) -> &'static str {
    match status {
        Status::Active if grant.scope.is_some() || grant.expires_at.is_some() => GRANTED,
        other => other.as_str(),
    }
}

fn act(row: &Row, by: Option<UserId>, step: &Move, now: OffsetDateTime) -> NewAct {
    let subscription = row.clone().at(now);
    let mut detail = json!({
        "consumer_id": subscription.consumer_id, "producer_id": subscription.producer_id, "status": subscription.status,
    });
    if let Some(ends) = row.expires_at {
        detail["expires_at_ms"] = ends.into();
    }
    if let Some(scope) = subscription.scope.as_deref().and_then(|scope| serde_json::from_str(scope).ok()) {
        detail["scope"] = scope;
    }
    NewAct {
        at: now,
        actor: by,
        act: step.act(subscription.status),
        object: format!("subscription:{}", row.id),
        concerns: [Some(subscription.producer_id.user()), Some(subscription.consumer_id.user())],
        detail,
    }
}

/// In force, but within limits.
const GRANTED: &str = "granted";

macro_rules! columns {
    () => {
        "CAST(id AS BIGINT) AS id, CAST(consumer_id AS BIGINT) AS consumer_id, CAST(producer_id AS BIGINT) AS producer_id, status, \
         created_at, requested_at, decided_at, CAST(decided_by AS BIGINT) AS decided_by, expires_at, scope"
    };
}

/// Whether a row is in force at $2.
macro_rules! in_force {
    () => {
        "(status IN ('active', 'granted') AND (expires_at IS NULL OR expires_at > $2))"
    };
}

/// A list by one condition on $1. `subscriptions.id`, because a plain `id` would mean the converted column, which no index is in order of.
macro_rules! list {
    ($whose:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM subscriptions WHERE ",
            $whose,
            " = $1 AND id > $3 AND CASE $5 WHEN '' THEN (",
            in_force!(),
            " OR status IN ('requested', 'invited')) WHEN 'all' THEN TRUE WHEN 'active' THEN ",
            in_force!(),
            " WHEN 'expired' THEN (status IN ('active', 'granted') AND expires_at <= $2) ELSE status = $5 END \
             ORDER BY subscriptions.id LIMIT $4"
        )
    };
}

macro_rules! rights {
    ($more:literal) => {
        concat!(
            "SELECT CAST(id AS BIGINT) AS id, CAST(producer_id AS BIGINT) AS producer_id, scope, expires_at \
             FROM subscriptions WHERE consumer_id = $1 AND ",
            in_force!(),
            $more
        )
    };
}

const BETWEEN: &str = concat!("SELECT ", columns!(), " FROM subscriptions WHERE consumer_id = $1 AND producer_id = $2");
const BY_ID: &str = concat!("SELECT ", columns!(), " FROM subscriptions WHERE id = $1");
const INSERT: &str = concat!(
    "INSERT INTO subscriptions (consumer_id, producer_id, status, requested_at, decided_at, decided_by, expires_at, scope) \
     SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE CAST($9 AS TEXT) IS NULL AND CAST($10 AS BIGINT) IS NULL \
     AND CAST($11 AS BIGINT) IS NULL AND CAST($12 AS TEXT) IS NULL ON CONFLICT (consumer_id, producer_id) DO NOTHING RETURNING ",
    columns!()
);
const UPDATE: &str = concat!(
    "UPDATE subscriptions SET status = $3, requested_at = $4, decided_at = $5, decided_by = $6, expires_at = $7, scope = $8 \
     WHERE consumer_id = $1 AND producer_id = $2 AND status IS NOT DISTINCT FROM $9 AND decided_at IS NOT DISTINCT FROM $10 \
     AND expires_at IS NOT DISTINCT FROM $11 AND scope IS NOT DISTINCT FROM $12 RETURNING ",
    columns!()
);
const OF_CONSUMER: &str = list!("consumer_id");
const OF_PRODUCER: &str = list!("producer_id");
const OF_ANYBODY: &str = list!("0");
const RIGHTS: &str = rights!(" ORDER BY subscriptions.id");
const RIGHT: &str = rights!(" AND producer_id = $3");
const SINCE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM subscriptions WHERE producer_id = $1 AND (requested_at >= $2 OR decided_at >= $2 \
     OR (status IN ('active', 'granted') AND expires_at > $3 AND expires_at <= $4)) ORDER BY subscriptions.id LIMIT $5"
);
const COUNT: &str = concat!("SELECT COUNT(*), MIN(expires_at) FROM subscriptions WHERE producer_id = $1 AND ", in_force!());
const WANTED: &str = concat!("SELECT COUNT(*) FROM subscriptions WHERE consumer_id = $1 AND (status = 'requested' OR ", in_force!(), ")");
const WANTED_BY_ORGANISATION: &str = concat!(
    "SELECT COUNT(*) FROM subscriptions WHERE consumer_id IN (SELECT user_id FROM organisation_accounts WHERE organisation_id = $1) \
     AND (status = 'requested' OR ",
    in_force!(),
    ")"
);

row! {
    #[derive(Clone)]
    struct Row {
        id: i64,
        consumer_id: i64,
        producer_id: i64,
        status: Option<String>,
        created_at: Option<PrimitiveDateTime>,
        requested_at: Option<i64>,
        decided_at: Option<i64>,
        decided_by: Option<i64>,
        expires_at: Option<i64>,
        scope: Option<String>,
    }
}

row! {
    struct RightRow {
        id: i64,
        producer_id: i64,
        scope: Option<String>,
        expires_at: Option<i64>,
    }
}

impl Row {
    /// The subscription as it stands at `now`.
    fn at(self, now: OffsetDateTime) -> Subscription {
        let status = match self.status.as_deref() {
            Some(GRANTED) => Status::Active,
            // The statements compare with the known words; whatever else an imported row says is not in force.
            other => other.and_then(|status| status.parse().ok()).unwrap_or(Status::Inactive),
        };
        let over = status == Status::Active && self.expires_at.is_some_and(|ends| ends <= millis(now));
        Subscription {
            id: self.id,
            consumer_id: ConsumerId(self.consumer_id),
            producer_id: ProducerId(self.producer_id),
            status: if over { Status::Expired } else { status },
            created_at: from_column(self.created_at),
            requested_at: self.requested_at.map(from_millis),
            decided_at: self.decided_at.map(from_millis),
            decided_by: self.decided_by.map(UserId),
            expires_at: self.expires_at.map(from_millis),
            scope: self.scope,
        }
    }
}

impl From<RightRow> for Right {
    fn from(row: RightRow) -> Self {
        Self { producer: ProducerId(row.producer_id), subscription: row.id, scope: row.scope, expires_at: row.expires_at.map(from_millis) }
    }
}
