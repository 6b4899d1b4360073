//! The audit log: the rows of `acts` as lines of a chain. Each line's hash covers the hash of the line before it, so that a line that was changed,
//! removed or put between others is found, and whatever follows it too.
//!
//! A line's hash is SHA-256, in hexadecimal digits, over the hash of the line before (nothing for the first), a line feed, and the line as a JSON array
//! without blanks: `[chain,id,at,actor,act,object,concern,other_concern,detail,outcome,seal]`. `at` are milliseconds since 1970, `detail` is a JSON text
//! as one string, `outcome` is null where the act was done, and `seal` is SHA-256 over salt, line feed and address.
//!
//! The table `audit_head` has the end of the chain, so that the removal of its last lines is noticed. Whoever can write both can shorten
//! both: against that an operator keeps a head elsewhere, as `audit export` and `audit verify` tell it.

use motience_auth::secret_hash;
use motience_runtime::clock::{from_millis, millis};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Error, MAX_PAGE, Store, on, row::row, transaction};

/// Gives the rows that have none their places in the chain, oldest first. Locks the head until the transaction ends.
macro_rules! chain {
    ($db:expr) => {{
        let (mut chain, mut hash): (i64, String) = sqlx::query_as($crate::audit::TAKE).persistent(false).fetch_one(&mut *$db).await?;
        let rows: Vec<$crate::audit::Row> = sqlx::query_as($crate::audit::UNCHAINED).persistent(false).fetch_all(&mut *$db).await?;
        let chained = rows.len();
        for row in rows {
            let mut line = $crate::audit::AuditLine::from(row);
            line.chain = chain + 1;
            line.hash = line.digest(&hash);
            sqlx::query($crate::audit::PLACE)
                .persistent(false)
                .bind(line.id)
                .bind(line.chain)
                .bind(line.hash.as_str())
                .execute(&mut *$db)
                .await?;
            (chain, hash) = (line.chain, line.hash);
        }
        sqlx::query($crate::audit::PUT).persistent(false).bind(chain).bind(hash).execute(&mut *$db).await?;
        chained
    }};
}
pub(super) use chain;

/// The digest of an address and its salt, by which a line covers them.
pub(super) fn seal(salt: &str, address: &str) -> String {
    secret_hash(&format!("{salt}\n{address}"))
}

/// The end of the chain: the place and the hash of its last line. 0 and nothing where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// Lines up to there.
    pub chain: i64,
    /// Hash of the last of them.
    pub hash: String,
}

/// A line of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLine {
    /// Its place, from 1.
    pub chain: i64,
    /// Its hash.
    pub hash: String,
    pub(super) id: i64,
    at: i64,
    actor: Option<i64>,
    act: String,
    object: String,
    concerns: [Option<i64>; 2],
    detail: Option<String>,
    outcome: Option<String>,
    seal: Option<String>,
    /// Address and salt, unless they were erased.
    origin: Option<(String, String)>,
}

/// The first line that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its place in the chain.
    pub chain: i64,
    /// In which way.
    pub why: String,
}

/// Lines that follow each other from the first on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The last of them.
    pub head: AuditHead,
    /// How many of them have lost their address with an account.
    pub erased: u64,
}

/// Outcome of [`Store::verify_audit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The lines that are good.
    pub good: Chain,
    /// The first one that is not.
    pub bad: Option<BadLine>,
    /// Rows that have no place yet.
    pub unchained: i64,
}

impl AuditLine {
    /// Its hash, behind a line with the hash `before`.
    pub(super) fn digest(&self, before: &str) -> String {
        let Self { chain, id, at, actor, act, object, concerns: [concern, other], detail, outcome, seal, .. } = self;
        let line = json!([chain, id, at, actor, act, object, concern, other, detail, outcome, seal]);
        secret_hash(&format!("{before}\n{line}"))
    }

    /// As a line of an export.
    pub fn to_json(&self) -> String {
        let detail = self.detail.as_ref().map(|detail| serde_json::from_str(detail).unwrap_or_else(|_| Value::from(detail.as_str())));
        let at = from_millis(self.at).format(&Rfc3339).unwrap_or_default();
        let (address, salt) = self.origin.clone().unzip();
        json!({
            "chain": self.chain, "id": self.id, "at": at, "actor": self.actor, "act": self.act, "object": self.object, "concerns": self.concerns,
            "detail": detail, "outcome": self.outcome, "seal": self.seal, "address": address, "salt": salt, "hash": self.hash,
        })
        .to_string()
    }

    /// Reads a line of an export; `None`: it is none.
    pub fn from_json(text: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(text).ok()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let concern = |at: usize| line["concerns"][at].as_i64();
        Some(Self {
            chain: line["chain"].as_i64()?,
            hash: text("hash")?,
            id: line["id"].as_i64()?,
            at: millis(OffsetDateTime::parse(line["at"].as_str()?, &Rfc3339).ok()?),
            actor: line["actor"].as_i64(),
            act: text("act")?,
            object: text("object")?,
            concerns: [concern(0), concern(1)],
            detail: Some(&line["detail"]).filter(|detail| !detail.is_null()).map(Value::to_string),
            outcome: text("outcome"),
            seal: text("seal"),
            origin: text("address").zip(text("salt")),
        })
    }
}

impl Chain {
    /// Goes on to the next line.
    pub fn follow(&mut self, line: &AuditLine) -> Result<(), BadLine> {
        let next = self.head.chain + 1;
        let bad = |why: &str| Err(BadLine { chain: next, why: why.to_owned() });
        if line.chain != next {
            return bad("is missing");
        }
        if line.hash != line.digest(&self.head.hash) {
            return bad("was changed, or is not the one that was there");
        }
        match (&line.seal, &line.origin) {
            (Some(sealed), Some((address, salt))) if *sealed != seal(salt, address) => return bad("has another address than it had"),
            (None, Some(_)) => return bad("has an address that it had not"),
            (Some(_), None) => self.erased += 1,
            _ => {}
        }
        self.head = AuditHead { chain: line.chain, hash: line.hash.clone() };
        Ok(())
    }
}

impl Store {
    /// The end of the chain; `None`: it is gone.
    pub async fn audit_head(&self) -> Result<Option<AuditHead>, Error> {
        let head = on!(self, reader, |db| sqlx::query_as::<_, (i64, String)>(HEAD).fetch_optional(db))?;
        Ok(head.map(|(chain, hash)| AuditHead { chain, hash }))
    }

    /// Lines after a place, as many as a page has.
    pub async fn audit_lines(&self, after: i64) -> Result<Vec<AuditLine>, Error> {
        let limit = i64::from(MAX_PAGE);
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LINES).bind(after).bind(limit).fetch_all(db))?;
        Ok(rows.into_iter().map(AuditLine::from).collect())
    }

    /// Gives all rows that have none a place in the chain: those from before there was one, and those of nodes of an older release.
    pub async fn chain_acts(&self) -> Result<(), Error> {
        // Most often there is none, and nothing is written.
        while on!(self, reader, |db| sqlx::query_scalar::<_, i64>(ONE_UNCHAINED).fetch_optional(db))?.is_some() {
            let chained = transaction!(self, |db| chain!(db))?;
            if chained == 0 {
                break;
            }
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Looks through the whole chain, also while others add to it. `known`: heads that were told earlier, which it must have passed.
    pub async fn verify_audit(&self, known: &[AuditHead]) -> Result<Verdict, Error> {
        // In this order: a line is there no later than its head.
        let highest = on!(self, reader, |db| sqlx::query_scalar::<_, Option<i64>>(HIGHEST).fetch_one(db))?.unwrap_or(0);
        let head = self.audit_head().await?;
        let unchained = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(UNCHAINED_COUNT).fetch_one(db))?;
        let mut chain = Chain::default();
        let bad = |chain: i64, why: &str| Some(BadLine { chain, why: why.to_owned() });
        let verdict = |good: Chain, bad: Option<BadLine>| Ok(Verdict { good, bad, unchained });
        loop {
            let lines = self.audit_lines(chain.head.chain).await?;
            for line in &lines {
                if let Err(line) = chain.follow(line) {
                    return verdict(chain, Some(line));
                }
                let is_known = |known: &&AuditHead| known.chain == chain.head.chain && known.hash != chain.head.hash;
                if known.iter().chain(&head).any(|known| is_known(&known)) {
                    let at = chain.head.chain;
                    return verdict(chain, bad(at, "is not the one that was there"));
                }
            }
            if lines.len() < MAX_PAGE as usize {
                break;
            }
        }
        let Some(head) = head else { return verdict(chain, bad(highest + 1, "cannot be judged: the head of the chain is gone")) };
        if highest > head.chain {
            return verdict(chain, bad(head.chain + 1, "is behind the head of the chain"));
        }
        let last = known.iter().map(|known| known.chain).max().unwrap_or(0).max(head.chain);
        let missing = (last > chain.head.chain).then(|| BadLine { chain: chain.head.chain + 1, why: "is missing".to_owned() });
        verdict(chain, missing)
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT CAST(acts.id AS BIGINT) AS id, at, CAST(actor AS BIGINT) AS actor, act, object, CAST(concern AS BIGINT) AS concern, \
             CAST(other_concern AS BIGINT) AS other_concern, detail, outcome, seal, chain, hash, address, salt \
             FROM acts LEFT JOIN act_origins ON act_origins.act_id = acts.id ",
            $rest
        )
    };
}

/// Takes the head: whoever comes next waits until this transaction ends.
pub(super) const TAKE: &str = "UPDATE audit_head SET chain = chain WHERE one = 1 RETURNING chain, hash";
pub(super) const PUT: &str = "UPDATE audit_head SET chain = $1, hash = $2 WHERE one = 1";
pub(super) const UNCHAINED: &str = select!("WHERE chain IS NULL ORDER BY acts.id LIMIT 200");
pub(super) const PLACE: &str = "UPDATE acts SET chain = $2, hash = $3 WHERE id = $1";
const HEAD: &str = "SELECT chain, hash FROM audit_head WHERE one = 1";
const ONE_UNCHAINED: &str = "SELECT CAST(id AS BIGINT) FROM acts WHERE chain IS NULL LIMIT 1";
const HIGHEST: &str = "SELECT MAX(chain) FROM acts";
const UNCHAINED_COUNT: &str = "SELECT COUNT(*) FROM acts WHERE chain IS NULL";
const LINES: &str = select!("WHERE chain > $1 ORDER BY chain LIMIT $2");

row! {
    pub(super) struct Row {
        id: i64,
        at: i64,
        actor: Option<i64>,
        act: String,
        object: String,
        concern: Option<i64>,
        other_concern: Option<i64>,
        detail: Option<String>,
        outcome: Option<String>,
        seal: Option<String>,
        chain: Option<i64>,
        hash: Option<String>,
        address: Option<String>,
        salt: Option<String>,
    }
}

impl From<Row> for AuditLine {
    fn from(row: Row) -> Self {
        Self {
            chain: row.chain.unwrap_or_default(),
            hash: row.hash.unwrap_or_default(),
            id: row.id,
            at: row.at,
            actor: row.actor,
            act: row.act,
            object: row.object,
            concerns: [row.concern, row.other_concern],
            detail: row.detail,
            outcome: row.outcome,
            seal: row.seal,
            origin: row.address.zip(row.salt),
        }
    }
}
