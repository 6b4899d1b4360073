//! The table `acts`: who changed whose rights, how, and when. Rows are added and read, never changed.

use futures_util::TryFutureExt;
use motience_proto::model::UserId;
use motience_runtime::clock::from_millis;
use serde_json::Value;
use time::OffsetDateTime;

use super::{Error, MAX_PAGE, Store, on, row::row};

/// Adds an act to the table, also within the transaction that changes what it is about.
macro_rules! insert {
    ($act:expr, $db:expr) => {
        sqlx::query($crate::acts::INSERT)
            .persistent(false)
            .bind(motience_runtime::clock::millis($act.at))
            .bind($act.actor.map(|actor| actor.0))
            .bind($act.act)
            .bind($act.object.as_str())
            .bind($act.concerns[0].map(|account| account.0))
            .bind($act.concerns[1].map(|account| account.0))
            .bind($act.detail())
            .execute($db)
    };
}
pub(super) use insert;

/// Longest object, in characters: the width of its column.
pub const MAX_OBJECT: usize = 320;

/// An act to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAct {
    /// When it happened.
    pub at: OffsetDateTime,
    /// The account that did it; `None`: the operator's command line, or the platform itself.
    pub actor: Option<UserId>,
    /// The deed, such as `subscription.approve`.
    pub act: &'static str,
    /// The thing that it changed, such as `subscription:12`.
    pub object: String,
    /// Accounts that may read of it beside the one that did it.
    pub concerns: [Option<UserId>; 2],
    /// More about it: outcome, scope, end. Null: nothing. Never a secret.
    pub detail: Value,
}

/// A recorded act.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// Its number: later acts have higher ones.
    pub id: i64,
    /// When it happened, to the millisecond.
    pub at: OffsetDateTime,
    /// The account that did it.
    pub actor: Option<UserId>,
    /// The deed.
    pub act: String,
    /// The thing that it changed.
    pub object: String,
    /// More about it.
    pub detail: Value,
}

/// Which acts are wanted. Each condition that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActQuery {
    /// Of this account.
    pub actor: Option<UserId>,
    /// About this thing.
    pub object: Option<String>,
    /// That this account may read of: it did them, or they concern it.
    pub reader: Option<UserId>,
    /// Before this number.
    pub before: Option<i64>,
    /// Most acts wanted; more than [`MAX_PAGE`] count as that.
    pub limit: u32,
}

impl Store {
    /// Records an act.
    pub async fn record_act(&self, act: &NewAct) -> Result<(), Error> {
        act.check()?;
        on!(self, writer, |db| insert!(act, db).map_ok(drop))
    }

    /// Acts, the newest first.
    pub async fn acts(&self, query: &ActQuery) -> Result<Vec<Act>, Error> {
        let object = query.object.as_deref().unwrap_or_default();
        if object.contains('\0') {
            return Ok(Vec::new());
        }
        let before = query.before.unwrap_or(i64::MAX);
        let limit = i64::from(query.limit.min(MAX_PAGE));
        // One statement for each index that can be gone through backwards.
        let statement = match (&query.object, query.actor, query.reader) {
            (Some(_), ..) => OF_OBJECT,
            (None, Some(_), _) => OF_ACTOR,
            (None, None, Some(_)) => OF_READER,
            (None, None, None) => ANY,
        };
        let (actor, reader) = (query.actor.map(|actor| actor.0), query.reader.map(|reader| reader.0));
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(statement)
            .bind(before)
            .bind(limit)
            .bind(reader)
            .bind(actor)
            .bind(object)
            .fetch_all(db))?;
        Ok(rows.into_iter().map(Act::from).collect())
    }
}

impl Store {
    /// Acts after this number, the oldest first, as many as a page has.
    pub async fn acts_after(&self, after: i64) -> Result<Vec<Act>, Error> {
        let limit = i64::from(MAX_PAGE);
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(AFTER).bind(after).bind(limit).fetch_all(db))?;
        Ok(rows.into_iter().map(Act::from).collect())
    }

    /// The highest number of an act; 0 where there is none.
    pub async fn newest_act(&self) -> Result<i64, Error> {
        let newest = on!(self, reader, |db| sqlx::query_scalar::<_, Option<i64>>(NEWEST).fetch_one(db))?;
        Ok(newest.unwrap_or(0))
    }
}

impl NewAct {
    fn check(&self) -> Result<(), Error> {
        if self.object.contains('\0') || self.object.chars().count() > MAX_OBJECT { Err(Error::Unstorable("object")) } else { Ok(()) }
    }

    /// The detail as it is stored.
    pub(super) fn detail(&self) -> Option<String> {
        (!self.detail.is_null()).then(|| self.detail.to_string())
    }
}

macro_rules! select {
    ($condition:expr) => {
        concat!(
            "SELECT CAST(acts.id AS BIGINT) AS id, at, CAST(actor AS BIGINT) AS actor, act, object, detail FROM acts \
             WHERE acts.id < $1 AND ($3 IS NULL OR actor = $3 OR concern = $3 OR other_concern = $3) \
             AND ($4 IS NULL OR actor = $4) AND ($5 = '' OR object = $5) ",
            $condition,
            " ORDER BY acts.id DESC LIMIT $2"
        )
    };
}

/// The newest ones with the reader in this column.
macro_rules! newest {
    ($column:literal) => {
        concat!("SELECT id FROM (SELECT id FROM acts WHERE ", $column, " = $3 AND id < $1 ORDER BY id DESC LIMIT $2) AS of_", $column)
    };
}

pub(super) const INSERT: &str =
    "INSERT INTO acts (at, actor, act, object, concern, other_concern, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)";
const OF_OBJECT: &str = select!("AND object = $5");
const OF_ACTOR: &str = select!("AND actor = $4");
const OF_READER: &str =
    select!(concat!("AND acts.id IN (", newest!("actor"), " UNION ", newest!("concern"), " UNION ", newest!("other_concern"), ")"));
const ANY: &str = select!("");

const AFTER: &str = "SELECT CAST(acts.id AS BIGINT) AS id, at, CAST(actor AS BIGINT) AS actor, act, object, detail FROM acts \
                     WHERE acts.id > $1 ORDER BY acts.id LIMIT $2";
const NEWEST: &str = "SELECT MAX(id) FROM acts";

row! {
    struct Row {
        id: i64,
        at: i64,
        actor: Option<i64>,
        act: String,
        object: String,
        detail: Option<String>,
    }
}

impl From<Row> for Act {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            at: from_millis(row.at),
            actor: row.actor.map(UserId),
            act: row.act,
            object: row.object,
            // Cannot fail: only this program writes it.
            detail: row.detail.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        }
    }
}
