//! The table `acts`: who changed whose rights, how, when, and from where; refused attempts too. Rows are added and read, never changed; [`audit`]
//! chains them.
//!
//! [`audit`]: super::audit

use std::net::IpAddr;

use motience_auth::random_id;
use motience_proto::model::UserId;
use motience_runtime::{
    clock::{from_millis, millis},
    origin,
};
use serde_json::Value;
use time::OffsetDateTime;

use super::{Error, MAX_PAGE, Store, audit, on, row::row, transaction};

/// Adds an act at the end of the chain, as the last statements of the transaction that changes what it is about: whoever has the chain's head keeps
/// all others waiting. `$new`: a [`NewRow`].
macro_rules! insert {
    ($new:expr, $db:expr) => {{
        let new: $crate::acts::NewRow<'_> = $new;
        let act = new.act;
        let id: i64 = sqlx::query_scalar($crate::acts::INSERT)
            .persistent(false)
            .bind(motience_runtime::clock::millis(act.at))
            .bind(act.actor.map(|actor| actor.0))
            .bind(new.word)
            .bind(act.object.as_str())
            .bind(act.concerns[0].map(|account| account.0))
            .bind(act.concerns[1].map(|account| account.0))
            .bind(act.detail())
            .bind(new.outcome.as_column())
            .bind(new.origin.as_ref().map(|origin| origin.seal()))
            .fetch_one(&mut *$db)
            .await?;
        if let Some(origin) = &new.origin {
            sqlx::query($crate::acts::INSERT_ORIGIN)
                .persistent(false)
                .bind(id)
                .bind(origin.account)
                .bind(origin.address.as_str())
                .bind(origin.salt.as_str())
                .execute(&mut *$db)
                .await?;
        }
        $crate::audit::chain!($db);
    }};
}
pub(super) use insert;

/// Longest object, in characters: the width of its column.
pub const MAX_OBJECT: usize = 320;
/// Longest name of a deed.
const MAX_ACT: usize = 64;

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

/// Outcome of an act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The act was done.
    #[default]
    Done,
    /// Whoever tried it may not.
    Refused,
    /// The platform could not do it.
    Failed,
}

impl Outcome {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    pub(super) fn as_column(self) -> Option<&'static str> {
        (self != Self::Done).then_some(self.as_str())
    }

    fn of_column(column: Option<&str>) -> Self {
        match column {
            None => Self::Done,
            Some("refused") => Self::Refused,
            Some(_) => Self::Failed,
        }
    }
}

/// Attempts that were not done, all alike: one row, however many they were.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempts {
    /// The last of them: `act` is not recorded, `word` is.
    pub act: NewAct,
    /// The deed that was tried, such as `POST /login`.
    pub word: String,
    /// Whether they were refused, or failed.
    pub outcome: Outcome,
    /// Address that they came from; `None`: several, or none.
    pub address: Option<IpAddr>,
}

/// An act on its way into the table.
pub(super) struct NewRow<'a> {
    pub(super) act: &'a NewAct,
    pub(super) word: &'a str,
    pub(super) outcome: Outcome,
    pub(super) origin: Option<NewOrigin>,
}

/// A row of `act_origins`. The chain has only its seal: once the row is erased, its salt with it, nobody finds the address out by trying all there are.
pub(super) struct NewOrigin {
    pub(super) account: Option<i64>,
    pub(super) address: String,
    pub(super) salt: String,
}

impl NewOrigin {
    fn new(address: IpAddr, account: Option<UserId>) -> Self {
        Self { account: account.map(|account| account.0), address: address.to_string(), salt: random_id() }
    }

    pub(super) fn seal(&self) -> String {
        audit::seal(&self.salt, &self.address)
    }
}

impl<'a> NewRow<'a> {
    /// An act that is done, for the request that this task serves.
    pub(super) fn done(act: &'a NewAct) -> Self {
        let origin = origin::current()
            .map(|origin| NewOrigin::new(origin.address(), act.actor.or(origin.account().map(UserId)).or(act.concerns[0])));
        Self { act, word: act.act, outcome: Outcome::Done, origin }
    }
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
    /// Whether it was done.
    pub outcome: Outcome,
    /// Address that it came from; `None`: there was none, or it was erased with its account.
    pub address: Option<String>,
    /// Its place in the chain, and its hash there; `None`: an older program has added it, and it has no place yet.
    pub chain: Option<(i64, String)>,
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
    /// This deed, or those whose names begin so and go on behind a dot.
    pub act: Option<String>,
    /// With this outcome; `None`: whatever it was.
    pub outcome: Option<Outcome>,
    /// From this address.
    pub address: Option<String>,
    /// At this time or later.
    pub from: Option<OffsetDateTime>,
    /// Earlier than this.
    pub to: Option<OffsetDateTime>,
    /// Before this number.
    pub before: Option<i64>,
    /// Most acts wanted; more than [`MAX_PAGE`] count as that.
    pub limit: u32,
}

impl Store {
    /// Records an act that is done, with the address of the request that this task serves.
    pub async fn record_act(&self, act: &NewAct) -> Result<(), Error> {
        self.add(NewRow::done(act)).await
    }

    /// Records attempts that were not done.
    pub async fn record_attempts(&self, attempts: &Attempts) -> Result<(), Error> {
        let Attempts { act, word, outcome, address } = attempts;
        let origin = address.map(|address| NewOrigin::new(address, act.actor.or(act.concerns[0])));
        self.add(NewRow { act, word: &word[..word.floor_char_boundary(MAX_ACT)], outcome: *outcome, origin }).await
    }

    async fn add(&self, new: NewRow<'_>) -> Result<(), Error> {
        new.act.check()?;
        transaction!(self, |db| insert!(new, db))
    }

    /// Acts, the newest first.
    pub async fn acts(&self, query: &ActQuery) -> Result<Vec<Act>, Error> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (object, act, address) = (text(&query.object), text(&query.act), text(&query.address));
        if [&object, &act, &address].iter().any(|text| text.contains('\0')) {
            return Ok(Vec::new());
        }
        let from = query.from.map_or(i64::MIN, millis);
        let to = query.to.map_or(i64::MAX, millis);
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
            .bind(&object)
            .bind(&act)
            .bind(format!("{act}."))
            .bind(query.outcome.map_or("", Outcome::as_str))
            .bind(&address)
            .bind(from)
            .bind(to)
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

macro_rules! shown {
    () => {
        "SELECT CAST(acts.id AS BIGINT) AS id, at, CAST(actor AS BIGINT) AS actor, act, object, detail, outcome, chain, hash, address \
         FROM acts LEFT JOIN act_origins ON act_origins.act_id = acts.id "
    };
}

macro_rules! select {
    ($condition:expr) => {
        concat!(
            shown!(),
            "WHERE acts.id < $1 AND ($3 IS NULL OR actor = $3 OR concern = $3 OR other_concern = $3) \
             AND ($4 IS NULL OR actor = $4) AND ($5 = '' OR object = $5) AND ($6 = '' OR act = $6 OR SUBSTR(act, 1, LENGTH($7)) = $7) \
             AND ($8 = '' OR COALESCE(outcome, 'done') = $8) AND ($9 = '' OR address = $9) AND at >= $10 AND at < $11 ",
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

pub(super) const INSERT: &str = "INSERT INTO acts (at, actor, act, object, concern, other_concern, detail, outcome, seal) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
pub(super) const INSERT_ORIGIN: &str = "INSERT INTO act_origins (act_id, account, address, salt) VALUES ($1, $2, $3, $4)";
const OF_OBJECT: &str = select!("AND object = $5");
const OF_ACTOR: &str = select!("AND actor = $4");
const OF_READER: &str =
    select!(concat!("AND acts.id IN (", newest!("actor"), " UNION ", newest!("concern"), " UNION ", newest!("other_concern"), ")"));
const ANY: &str = select!("");

const AFTER: &str = concat!(shown!(), "WHERE acts.id > $1 ORDER BY acts.id LIMIT $2");
const NEWEST: &str = "SELECT MAX(id) FROM acts";

row! {
    struct Row {
        id: i64,
        at: i64,
        actor: Option<i64>,
        act: String,
        object: String,
        detail: Option<String>,
        outcome: Option<String>,
        chain: Option<i64>,
        hash: Option<String>,
        address: Option<String>,
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
            outcome: Outcome::of_column(row.outcome.as_deref()),
            address: row.address,
            chain: row.chain.zip(row.hash),
        }
    }
}
