//! The table `subscriptions`: who receives whose records.

use motience_proto::model::{ConsumerId, ProducerId, Status, Subscription};
use time::PrimitiveDateTime;

use super::{Error, Page, Store, from_column, is_storable, on, row::row};

/// How often [`Store::subscribe`] begins again when others change the same row between its steps.
const ROUNDS: usize = 5;

/// Outcome of [`Store::subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was no such subscription.
    Created,
    /// There was one that had ended.
    Reactivated,
    /// The subscription was already in force.
    Unchanged,
}

impl Store {
    /// Makes a subscription, or puts an ended one back in force.
    ///
    /// Each step is one statement that checks what it changes, so any number of concurrent calls make one row, and exactly one of
    /// them reports [`Change::Created`]. The insertion comes last: on PostgreSQL even one that finds the row uses up an id.
    pub async fn subscribe(&self, consumer: ConsumerId, producer: ProducerId) -> Result<(Subscription, Change), Error> {
        for (id, field) in [(consumer.0, "consumer_id"), (producer.0, "producer_id")] {
            if !is_storable(id) {
                return Err(Error::Unstorable(field));
            }
        }
        for _ in 0..ROUNDS {
            for (statement, change) in [(REACTIVATE, Change::Reactivated), (FIND_ACTIVE, Change::Unchanged), (INSERT, Change::Created)] {
                let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(statement).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
                if let Some(row) = row {
                    return Ok((row.into(), change));
                }
            }
        }
        Err(Error::TimedOut)
    }

    /// Ends a subscription; `None` where none was in force. The row stays.
    pub async fn unsubscribe(&self, consumer: ConsumerId, producer: ProducerId) -> Result<Option<Subscription>, Error> {
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(DEACTIVATE).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// The subscriptions of a consumer that are in force.
    pub async fn subscriptions_of(&self, consumer: ConsumerId, page: Page) -> Result<Vec<Subscription>, Error> {
        self.subscriptions(OF_CONSUMER, consumer.0, page).await
    }

    /// The subscriptions to a producer that are in force.
    pub async fn subscribers_of(&self, producer: ProducerId, page: Page) -> Result<Vec<Subscription>, Error> {
        self.subscriptions(OF_PRODUCER, producer.0, page).await
    }

    /// All producers that a consumer follows.
    pub async fn follows(&self, consumer: ConsumerId) -> Result<Vec<ProducerId>, Error> {
        let ids = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(FOLLOWS).bind(consumer.0).fetch_all(db))?;
        Ok(ids.into_iter().map(ProducerId).collect())
    }

    /// How many consumers follow a producer.
    pub async fn follower_count(&self, producer: ProducerId) -> Result<u64, Error> {
        let count = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(COUNT).bind(producer.0).fetch_one(db))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Whether a consumer follows a producer.
    pub async fn is_following(&self, consumer: ConsumerId, producer: ProducerId) -> Result<bool, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(FIND_ACTIVE).bind(consumer.0).bind(producer.0).fetch_optional(db))?;
        Ok(row.is_some())
    }

    async fn subscriptions(&self, statement: &'static str, id: i64, page: Page) -> Result<Vec<Subscription>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(statement).bind(id).bind(page.after).bind(page.limit()).fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }
}

macro_rules! columns {
    () => {
        "CAST(id AS BIGINT) AS id, CAST(consumer_id AS BIGINT) AS consumer_id, CAST(producer_id AS BIGINT) AS producer_id, status, created_at"
    };
}

const REACTIVATE: &str = concat!(
    "UPDATE subscriptions SET status = 'active' \
     WHERE consumer_id = $1 AND producer_id = $2 AND status IS DISTINCT FROM 'active' RETURNING ",
    columns!()
);
const FIND_ACTIVE: &str =
    concat!("SELECT ", columns!(), " FROM subscriptions WHERE consumer_id = $1 AND producer_id = $2 AND status = 'active'");
const INSERT: &str = concat!(
    "INSERT INTO subscriptions (consumer_id, producer_id, status) VALUES ($1, $2, 'active') \
     ON CONFLICT (consumer_id, producer_id) DO NOTHING RETURNING ",
    columns!()
);
const DEACTIVATE: &str = concat!(
    "UPDATE subscriptions SET status = 'inactive' WHERE consumer_id = $1 AND producer_id = $2 AND status = 'active' RETURNING ",
    columns!()
);
// `subscriptions.id`, because a plain `id` would mean the converted column, which no index is in order of.
const OF_CONSUMER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM subscriptions WHERE consumer_id = $1 AND status = 'active' AND id > $2 ORDER BY subscriptions.id LIMIT $3"
);
const OF_PRODUCER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM subscriptions WHERE producer_id = $1 AND status = 'active' AND id > $2 ORDER BY subscriptions.id LIMIT $3"
);
const FOLLOWS: &str =
    "SELECT CAST(producer_id AS BIGINT) FROM subscriptions WHERE consumer_id = $1 AND status = 'active' ORDER BY subscriptions.id";
const COUNT: &str = "SELECT COUNT(*) FROM subscriptions WHERE producer_id = $1 AND status = 'active'";

row! {
    struct Row {
        id: i64,
        consumer_id: i64,
        producer_id: i64,
        status: Option<String>,
        created_at: Option<PrimitiveDateTime>,
    }
}

impl From<Row> for Subscription {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            consumer_id: ConsumerId(row.consumer_id),
            producer_id: ProducerId(row.producer_id),
            // The statements compare with 'active'; whatever else an imported row says is not in force.
            status: row.status.and_then(|s| s.parse().ok()).unwrap_or(Status::Inactive),
            created_at: from_column(row.created_at),
        }
    }
}
