//! The table `retentions`: what producers want kept, where that is less than the platform keeps.

use std::time::Duration;

use futures_util::TryFutureExt as _;
use motience_proto::model::ProducerId;
use serde_json::{Value, json};

use super::{Error, MAX_PAGE, Store, is_storable, on, row::row};

/// Limits that one producer sets for its records. `None`: as the platform does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRetention {
    /// How long records stay in the log, to the millisecond.
    pub log_age: Option<Duration>,
    /// Bytes of records in the log.
    pub log_bytes: Option<u64>,
    /// How long records stay in the history, to the millisecond.
    pub history_age: Option<Duration>,
    /// Classes of its devices whose rows stay in the history for a shorter time.
    pub classes: Vec<ClassRetention>,
}

/// How long rows of a class of devices stay in the history: of those that have a label with this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRetention {
    /// The label.
    pub label: String,
    /// Its value.
    pub value: String,
    /// How long, to the millisecond.
    pub history_age: Duration,
}

impl Store {
    /// Sets what a producer wants kept.
    pub async fn set_retention(&self, producer: ProducerId, own: &OwnRetention) -> Result<(), Error> {
        if !is_storable(producer.0) {
            return Err(Error::Unstorable("producer_id"));
        }
        let age = |age: Option<Duration>| age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let bytes = own.log_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let class = |class: &ClassRetention| json!([class.label, class.value, age(Some(class.history_age))]);
        let classes = (!own.classes.is_empty()).then(|| own.classes.iter().map(class).collect::<Value>().to_string());
        on!(self, writer, |db| sqlx::query(PUT)
            .bind(producer.0)
            .bind(age(own.log_age))
            .bind(bytes)
            .bind(age(own.history_age))
            .bind(classes.as_deref())
            .execute(db)
            .map_ok(drop))
    }

    /// Limits that a producer has set.
    pub async fn retention(&self, producer: ProducerId) -> Result<OwnRetention, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(ONE).bind(producer.0).fetch_optional(db))?;
        Ok(row.map(Row::own).transpose()?.map(|(_, own)| own).unwrap_or_default())
    }

    /// All producers that want less than the platform keeps.
    pub async fn retentions(&self) -> Result<Vec<(ProducerId, OwnRetention)>, Error> {
        let (mut all, mut after) = (Vec::new(), i64::MIN);
        loop {
            let limit = i64::from(MAX_PAGE);
            let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(after).bind(limit).fetch_all(db))?;
            let is_last = rows.len() < MAX_PAGE as usize;
            for row in rows {
                all.push(row.own()?);
            }
            match all.last() {
                Some((last, _)) if !is_last => after = last.0,
                _ => return Ok(all),
            }
        }
    }
}

const PUT: &str = "INSERT INTO retentions (producer_id, log_age, log_bytes, history_age, classes) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (producer_id) \
     DO UPDATE SET log_age = EXCLUDED.log_age, log_bytes = EXCLUDED.log_bytes, history_age = EXCLUDED.history_age, \
     classes = EXCLUDED.classes";
const ONE: &str =
    "SELECT CAST(producer_id AS BIGINT) AS producer_id, log_age, log_bytes, history_age, classes FROM retentions WHERE producer_id = $1";
const LIST: &str = "SELECT CAST(retentions.producer_id AS BIGINT) AS producer_id, log_age, log_bytes, history_age, classes FROM retentions \
     WHERE retentions.producer_id > $1 ORDER BY retentions.producer_id LIMIT $2";

row! {
    struct Row {
        producer_id: i64,
        log_age: Option<i64>,
        log_bytes: Option<i64>,
        history_age: Option<i64>,
        classes: Option<String>,
    }
}

impl Row {
    fn own(self) -> Result<(ProducerId, OwnRetention), Error> {
        let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let age = |age| number(age).map(Duration::from_millis);
        let classes: Result<Vec<(String, String, u64)>, _> = self.classes.as_deref().map_or(Ok(Vec::new()), serde_json::from_str);
        let class = |(label, value, age)| ClassRetention { label, value, history_age: Duration::from_millis(age) };
        let classes = classes.map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))))?;
        let own = OwnRetention {
            log_age: age(self.log_age),
            log_bytes: number(self.log_bytes),
            history_age: age(self.history_age),
            classes: classes.into_iter().map(class).collect(),
        };
        Ok((ProducerId(self.producer_id), own))
    }
}
