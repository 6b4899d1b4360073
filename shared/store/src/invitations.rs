//! The table `invitations`: who may register where registration is by invitation.

use futures_util::TryFutureExt;
use motience_proto::model::{Role, UserId};
use motience_runtime::clock::{from_millis, millis};
use time::OffsetDateTime;

use super::{Error, Store, on, row::row};

/// Invitations in one list.
const MAX_LIST: i64 = 1000;

/// An invitation.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// The id, which is no secret.
    pub id: String,
    /// The role of accounts that it makes; `None`: producer or consumer.
    pub role: Option<Role>,
    /// A word of whoever made it.
    pub note: Option<String>,
    /// Accounts that it still makes.
    pub uses_left: i64,
    /// The operator who made it; `None`: the command line.
    pub created_by: Option<UserId>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

impl Store {
    /// Remembers an invitation by the hash of its secret.
    pub async fn add_invitation(&self, invitation: &Invitation, hash: &str) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(ADD)
            .bind(&invitation.id)
            .bind(hash)
            .bind(invitation.role.map(Role::as_str))
            .bind(&invitation.note)
            .bind(invitation.uses_left)
            .bind(invitation.created_by.map(|user| user.0))
            .bind(millis(invitation.created_at))
            .bind(millis(invitation.expires_at))
            .execute(db)
            .map_ok(drop))
    }

    /// Invitations that are still good, the newest first.
    pub async fn invitations(&self, now: OffsetDateTime) -> Result<Vec<Invitation>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(millis(now)).bind(MAX_LIST).fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Uses an invitation for an account of this role; its id, or `None` where it is not good for that. Of any number of calls no more succeed
    /// than it has uses.
    pub async fn use_invitation(&self, hash: &str, role: Role, now: OffsetDateTime) -> Result<Option<String>, Error> {
        on!(self, writer, |db| sqlx::query_scalar::<_, String>(USE).bind(hash).bind(role.as_str()).bind(millis(now)).fetch_optional(db))
    }

    /// Gives a use back that came to nothing.
    pub async fn give_invitation_back(&self, id: &str) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(GIVE_BACK).bind(id).execute(db).map_ok(drop))
    }

    /// Ends an invitation; `false` where there is none.
    pub async fn revoke_invitation(&self, id: &str) -> Result<bool, Error> {
        let ended = on!(self, writer, |db| sqlx::query(REVOKE).bind(id).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(ended > 0)
    }

    /// Forgets invitations that have ended.
    pub async fn purge_invitations(&self, now: OffsetDateTime) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(PURGE).bind(millis(now)).execute(db).map_ok(drop))
    }
}

const ADD: &str = "INSERT INTO invitations (id, hash, role, note, uses_left, created_by, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const LIST: &str = "SELECT id, role, note, CAST(uses_left AS BIGINT) AS uses_left, CAST(created_by AS BIGINT) AS created_by, created_at, \
     expires_at FROM invitations WHERE uses_left > 0 AND expires_at > $1 ORDER BY created_at DESC, id LIMIT $2";
const USE: &str = "UPDATE invitations SET uses_left = uses_left - 1 \
     WHERE hash = $1 AND (role IS NULL OR role = $2) AND uses_left > 0 AND expires_at > $3 RETURNING id";
const GIVE_BACK: &str = "UPDATE invitations SET uses_left = uses_left + 1 WHERE id = $1";
const REVOKE: &str = "DELETE FROM invitations WHERE id = $1";
const PURGE: &str = "DELETE FROM invitations WHERE expires_at <= $1";

row! {
    struct Row {
        id: String,
        role: Option<String>,
        note: Option<String>,
        uses_left: i64,
        created_by: Option<i64>,
        created_at: i64,
        expires_at: i64,
    }
}

impl From<Row> for Invitation {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            role: row.role.and_then(|role| role.parse().ok()),
            note: row.note,
            uses_left: row.uses_left,
            created_by: row.created_by.map(UserId),
            created_at: from_millis(row.created_at),
            expires_at: from_millis(row.expires_at),
        }
    }
}
