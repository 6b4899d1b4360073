//! Everything that the database holds about an account: one list of tables, by which it is exported and erased.
//!
//! A table that is not in the list fails a test: whoever adds one says here whose rows it has.

use futures_util::TryFutureExt;
use motience_proto::model::{LogId, LogKey, ProducerId, UserId};
use motience_runtime::clock::{from_millis, millis};
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

use super::{Engine, Error, Store, limited, on};

/// Rows of one part of an export: bounded, as a row of the history may be as large as a record.
const PAGE: usize = 100;
/// Rows erased in one statement, so that other writers have their turn.
const ERASED_AT_ONCE: i64 = 1000;

/// A table with rows about accounts.
#[derive(Clone, Copy, Debug)]
pub struct PersonalTable {
    /// Its name.
    pub name: &'static str,
    /// Columns with the account whose row it is: what the account is given in an export.
    exported_by: &'static [&'static str],
    /// Columns with an account with whose end the row ends.
    erased_by: &'static [&'static str],
    /// Columns that are no part of an export: hashes of secrets.
    hidden: &'static [&'static str],
    /// The order of an export: a number `id` from which it goes on, or columns that order all rows.
    order: Order,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Id,
    Columns(&'static str),
}

/// Every table with rows about accounts; the accounts themselves come last, as they are erased last.
pub const PERSONAL_TABLES: &[PersonalTable] = &[
    table("subscriptions", &["consumer_id", "producer_id"], Order::Id),
    PersonalTable { erased_by: &["consumer_id", "producer_id"], ..table("cursors", &["consumer_id"], Order::Columns("name, producer_id")) },
    table("history_cursors", &["producer_id"], Order::Columns("producer_id")),
    table("data_history", &["producer_id"], Order::Id),
    PersonalTable { hidden: &["id", "successor"], ..table("refresh_tokens", &["user_id"], Order::Columns("family, id")) },
    table("login_addresses", &["user_id"], Order::Columns("address")),
    PersonalTable { hidden: &["hash"], ..table("api_keys", &["user_id"], Order::Columns("id")) },
    table("external_identities", &["user_id"], Order::Columns("issuer, subject")),
    PersonalTable { hidden: &["hash"], ..table("password_resets", &["user_id"], Order::Columns("hash")) },
    PersonalTable { hidden: &["hash"], ..table("invitations", &["created_by"], Order::Columns("id")) },
    table("device_credentials", &["producer_id"], Order::Columns("id")),
    table("devices", &["producer_id"], Order::Columns("device_id")),
    PersonalTable { hidden: &["hash"], ..table("enrolment_tokens", &["producer_id"], Order::Columns("id")) },
    PersonalTable { hidden: &["salt"], ..table("act_origins", &["account"], Order::Columns("act_id")) },
    table("retentions", &["producer_id"], Order::Columns("producer_id")),
    table("record_erasures", &["producer_id"], Order::Id),
    table("account_plans", &["user_id"], Order::Columns("user_id")),
    table("organisation_accounts", &["user_id"], Order::Columns("user_id")),
    table("organisation_members", &["user_id"], Order::Columns("organisation_id")),
    PersonalTable { hidden: &["hash"], ..table("organisation_invitations", &["created_by"], Order::Columns("id")) },
    PersonalTable {
        erased_by: &["user_id", "producer_id"],
        ..table("usage_hours", &["user_id"], Order::Columns("hour, direction, producer_id, device_id"))
    },
    table("usage_cursors", &["producer_id"], Order::Columns("producer_id")),
    PersonalTable { erased_by: &["consumer_id", "producer_id"], ..table("usage_marks", &["consumer_id"], Order::Columns("producer_id")) },
    // The record of acts stays: it knows accounts by number only.
    PersonalTable { erased_by: &[], ..table("acts", &["actor", "concern", "other_concern"], Order::Id) },
    PersonalTable { hidden: &["password_hash"], ..table("users", &["id"], Order::Id) },
];

/// Tables without rows about accounts: what the nodes do among themselves, and which accounts are being erased.
#[cfg(test)]
pub(super) const OTHER_TABLES: &[&str] =
    &["leases", "installation", "revoked_families", "erasures", "device_cas", "schema_needs", "plans", "organisations", "audit_head"];

const fn table(name: &'static str, account: &'static [&'static str], order: Order) -> PersonalTable {
    PersonalTable { name, exported_by: account, erased_by: account, hidden: &[], order }
}

impl PersonalTable {
    /// Whether it is the history, which a replica has too.
    pub fn is_history(&self) -> bool {
        self.name == "data_history"
    }
}

/// A part of an export.
#[derive(Clone, Debug, Default)]
pub struct PersonalRows {
    /// Rows, each a JSON object.
    pub rows: Vec<String>,
    /// Where the next part begins; `None`: this is the last.
    pub next: Option<i64>,
}

impl Store {
    /// A part of a table's rows about an account, from `position` on, which is 0 at the start.
    pub async fn personal_rows(&self, table: &PersonalTable, user: UserId, position: i64) -> Result<PersonalRows, Error> {
        let columns: Vec<String> = self.columns_of(table.name).await?;
        let columns: Vec<&str> = columns.iter().map(String::as_str).filter(|column| !table.hidden.contains(column)).collect();
        let quoted = |column: &&str| format!("\"{column}\"");
        let (postgres, name) = (matches!(&*self.0, Engine::Postgres(_)), table.name);
        let json = if postgres {
            format!(
                "CAST(row_to_json((SELECT shown FROM (SELECT {}) AS shown)) AS TEXT)",
                columns.iter().map(quoted).collect::<Vec<_>>().join(", ")
            )
        } else {
            // JSON of SQLite holds no bytes.
            let member = |column: &&str| {
                let value = quoted(column);
                format!("'{column}', CASE typeof({value}) WHEN 'blob' THEN hex({value}) ELSE {value} END")
            };
            format!("json_object({})", columns.iter().map(member).collect::<Vec<_>>().join(", "))
        };
        let is_of = table.exported_by.iter().map(|column| format!("{column} = $1")).collect::<Vec<_>>().join(" OR ");
        let statement = match table.order {
            Order::Id => format!(
                "SELECT CAST({name}.id AS BIGINT), {json} FROM {name} WHERE ({is_of}) AND {name}.id > $2 ORDER BY {name}.id LIMIT {PAGE}"
            ),
            Order::Columns(order) => {
                format!("SELECT CAST(0 AS BIGINT), {json} FROM {name} WHERE ({is_of}) ORDER BY {order} LIMIT {PAGE} OFFSET $2")
            }
        };
        let rows: Vec<(i64, String)> = on!(self, reader, |db| sqlx::query_as::<_, (i64, String)>(AssertSqlSafe(statement.clone()))
            .persistent(false)
            .bind(user.0)
            .bind(position)
            .fetch_all(db))?;
        let next = rows.last().filter(|_| rows.len() == PAGE).map(|&(id, _)| match table.order {
            Order::Id => id,
            Order::Columns(_) => position + PAGE as i64,
        });
        Ok(PersonalRows { rows: rows.into_iter().map(|(_, row)| row).collect(), next })
    }

    /// Notes that an account is to be erased; from then on nobody opens it again. `false` where there is none.
    pub async fn begin_erasure(&self, user: UserId, now: OffsetDateTime) -> Result<bool, Error> {
        let begun =
            on!(self, writer, |db| sqlx::query(BEGIN).bind(user.0).bind(millis(now)).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(begun > 0)
    }

    /// Accounts that are being erased: their logs, and when that was asked for.
    pub async fn erasures(&self) -> Result<Vec<(LogKey, OffsetDateTime)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64, i64)>(ERASURES).fetch_all(db))?;
        let erasure =
            |(user, log, at): (i64, i64, i64)| (LogKey { producer: ProducerId(user), log: LogId(log.cast_unsigned()) }, from_millis(at));
        Ok(rows.into_iter().map(erasure).collect())
    }

    /// Erases every row about an account, a few at a time, the account itself last. Doing it again is no harm.
    pub async fn erase_rows(&self, user: UserId) -> Result<(), Error> {
        let place = if matches!(&*self.0, Engine::Postgres(_)) { "ctid" } else { "rowid" };
        for PersonalTable { name, erased_by, order, .. } in PERSONAL_TABLES {
            // A table that may be divided has rows of one place in each of its partitions.
            let row = if matches!(order, Order::Id) { "id" } else { place };
            for column in *erased_by {
                let statement = format!(
                    "DELETE FROM {name} WHERE {column} = $1 AND {row} IN (SELECT {row} FROM {name} WHERE {column} = $1 LIMIT {ERASED_AT_ONCE})"
                );
                loop {
                    let gone = on!(self, writer, |db| sqlx::query(AssertSqlSafe(statement.clone()))
                        .persistent(false)
                        .bind(user.0)
                        .execute(db)
                        .map_ok(|done| done.rows_affected()))?;
                    if gone < ERASED_AT_ONCE.unsigned_abs() {
                        break;
                    }
                    tokio::task::consume_budget().await;
                }
            }
        }
        Ok(())
    }

    /// Forgets that an account was to be erased: nothing of it is left.
    pub async fn end_erasure(&self, user: UserId) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(END).bind(user.0).execute(db).map_ok(drop))
    }

    async fn columns_of(&self, table: &str) -> Result<Vec<String>, Error> {
        limited(async {
            Ok(match &*self.0 {
                Engine::Sqlite(pools) => sqlx::query_scalar(COLUMNS_SQLITE).bind(table).fetch_all(&pools.reader).await?,
                Engine::Postgres(pools) => sqlx::query_scalar(COLUMNS_POSTGRES).bind(table).fetch_all(&pools.reader).await?,
            })
        })
        .await
    }
}

const BEGIN: &str = "INSERT INTO erasures (user_id, log_id, asked_at) \
     SELECT users.id, COALESCE(users.log_id, users.id), CAST($2 AS BIGINT) FROM users WHERE users.id = $1 ON CONFLICT (user_id) DO UPDATE SET asked_at = erasures.asked_at";
const ERASURES: &str = "SELECT user_id, log_id, asked_at FROM erasures ORDER BY asked_at";
const END: &str = "DELETE FROM erasures WHERE user_id = $1";
const COLUMNS_SQLITE: &str = "SELECT name FROM pragma_table_info($1) ORDER BY cid";
const COLUMNS_POSTGRES: &str = "SELECT CAST(column_name AS TEXT) FROM information_schema.columns \
     WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position";
