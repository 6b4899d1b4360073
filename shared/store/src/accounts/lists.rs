//! Lists of accounts, in parts: what operators look for, and whom each account may see. A part costs no more the more accounts there are; but SQLite, and a
//! PostgreSQL without an index of parts of names, look at all names for a part that few have.

use motience_auth::folded;
use motience_proto::model::{Account, Role, User, UserId, Visibility};
use motience_runtime::clock::millis;
use time::OffsetDateTime;

use super::{AccountRow, Row, columns};
use crate::{Error, Page, Store, on};

/// Which accounts are wanted.
#[derive(Clone, Debug, Default)]
pub struct AccountQuery {
    /// Of this role only.
    pub role: Option<Role>,
    /// With this in their names, in whichever case; empty: any.
    pub name: String,
    /// Which part of the list.
    pub page: Page,
}

impl Store {
    /// The accounts that a query names, by id, the closed ones too.
    pub async fn accounts(&self, query: &AccountQuery) -> Result<Vec<Account>, Error> {
        if query.name.contains('\0') {
            return Ok(Vec::new());
        }
        let (role, page) = (query.role.map_or("", Role::as_str), query.page);
        let pattern = |name: &str| if name.is_empty() { String::new() } else { format!("%{}%", escaped(name)) };
        // As it was written, for accounts from before names were canonical, and as new accounts have it.
        let (name, canonical) = (pattern(&query.name), pattern(&folded(&query.name)));
        // Planned anew for what is asked: one plan for all walks through every account for a name or a role that few have.
        let rows = on!(self, reader, |db| sqlx::query_as::<_, AccountRow>(ACCOUNTS)
            .persistent(false)
            .bind(page.after)
            .bind(role)
            .bind(&name)
            .bind(page.limit())
            .bind(&canonical)
            .fetch_all(db))?;
        Ok(rows.into_iter().filter_map(AccountRow::account).collect())
    }

    /// The producers that an account may see, without those that are closed: all but the private ones, and of these itself and those that have
    /// approved or invited it. `default`: the visibility of those that have none of their own.
    pub async fn visible_producers(
        &self,
        reader: UserId,
        default: Visibility,
        page: Page,
        now: OffsetDateTime,
    ) -> Result<Vec<User>, Error> {
        let statement = if default == Visibility::Private { SHOWN } else { VISIBLE };
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(statement)
            .persistent(false)
            .bind(reader.0)
            .bind(page.after)
            .bind(page.limit())
            .bind(default.as_str())
            .bind(millis(now))
            .fetch_all(db))?;
        Ok(rows.into_iter().filter_map(Row::user).collect())
    }

    /// The consumers that have to do with an account, without those that are closed: those that follow it, asked it, or were invited or refused
    /// by it; and itself.
    pub async fn known_consumers(&self, reader: UserId, page: Page) -> Result<Vec<User>, Error> {
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, Row>(KNOWN).bind(reader.0).bind(page.after).bind(page.limit()).fetch_all(db))?;
        Ok(rows.into_iter().filter_map(Row::user).collect())
    }

    /// The accounts of one role, without those that are closed.
    pub async fn users(&self, role: Role, page: Page) -> Result<Vec<User>, Error> {
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(role.as_str()).bind(page.after).bind(page.limit()).fetch_all(db))?;
        Ok(rows.into_iter().filter_map(Row::user).collect())
    }
}

// `users.id`, because a plain `id` would mean the converted column, which no index is in order of.
const LIST: &str =
    concat!("SELECT ", columns!(), " FROM users WHERE role = $1 AND id > $2 AND revoked_at IS NULL ORDER BY users.id LIMIT $3");
/// The producers that have approved or invited the account $1 at $5.
macro_rules! let_in {
    () => {
        "SELECT producer_id FROM subscriptions WHERE consumer_id = $1 AND ((status IN ('active', 'granted') \
         AND (expires_at IS NULL OR expires_at > $5)) OR status = 'invited' OR (status = 'inactive' AND decided_at IS NOT NULL))"
    };
}
const VISIBLE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM users WHERE role = 'producer' AND id > $2 AND revoked_at IS NULL AND (COALESCE(visibility, $4) IN ('open', 'listed') OR id = $1 \
     OR id IN (",
    let_in!(),
    ")) ORDER BY users.id LIMIT $3"
);
// Where producers are private by default ($4), hardly any of them may be in the list: they are not all looked at.
const SHOWN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM users WHERE id IN (SELECT id FROM (SELECT id FROM users WHERE visibility IN ('open', 'listed') AND role = 'producer' AND id > $2 \
     AND revoked_at IS NULL AND $4 = 'private' ORDER BY id LIMIT $3) AS shown UNION SELECT CAST($1 AS BIGINT) UNION ",
    let_in!(),
    ") AND role = 'producer' AND id > $2 AND revoked_at IS NULL ORDER BY users.id LIMIT $3"
);
const KNOWN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM users WHERE role = 'consumer' AND id > $2 AND revoked_at IS NULL AND id IN (SELECT CAST($1 AS BIGINT) UNION SELECT consumer_id \
     FROM subscriptions WHERE producer_id = $1 AND status IN ('active', 'granted', 'requested', 'invited', 'denied', 'revoked')) \
     ORDER BY users.id LIMIT $3"
);
// Case is the database's own to judge: SQLite knows that of A to Z. Roles that nobody can act in are passed over here, so that a page is full.
const ACCOUNTS: &str = concat!(
    "SELECT revoked_at, ",
    columns!(),
    " FROM users WHERE id > $1 AND role IN ('producer', 'consumer', 'admin') AND ($2 = '' OR role = $2) \
     AND ($3 = '' OR LOWER(username) LIKE LOWER($3) ESCAPE '!' OR LOWER(username) LIKE $5 ESCAPE '!') ORDER BY users.id LIMIT $4"
);

/// The text with nothing in it that LIKE takes for more than itself.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| matches!(c, '!' | '%' | '_').then_some('!').into_iter().chain([c])).collect()
}
