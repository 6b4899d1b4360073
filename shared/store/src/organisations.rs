//! The tables `organisations`, `organisation_accounts`, `organisation_members` and `organisation_invitations`: who owns accounts together, and who
//! of them may do what. An account that no organisation owns is one of its own, of which there is no row.

use std::str::FromStr;

use futures_util::TryFutureExt;
use motience_proto::model::{MemberRole, UnknownMemberRole, UserId};
use motience_runtime::clock::{from_millis, millis};
use time::OffsetDateTime;

use super::{Error, Store, on, row::row, transaction};

/// An organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organisation {
    /// The id.
    pub id: String,
    /// The name, which no other has.
    pub name: String,
    /// The plan that the operator gave it.
    pub plan: Option<String>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A member of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The account of the member.
    pub user: UserId,
    /// Its name.
    pub username: String,
    /// The role, which says what it may do.
    pub role: MemberRole,
    /// Since when.
    pub added_at: OffsetDateTime,
}

/// The outcome of an invitation for its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// A member.
    As(MemberRole),
    /// An account that the organisation owns.
    AsAccount,
}

impl Joins {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::As(role) => role.as_str(),
            Self::AsAccount => "account",
        }
    }
}

impl FromStr for Joins {
    type Err = UnknownMemberRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "account" { Ok(Self::AsAccount) } else { text.parse().map(Self::As) }
    }
}

/// An invitation into an organisation.
#[derive(Clone, Debug)]
pub struct OrganisationInvitation {
    /// The id, which is no secret.
    pub id: String,
    /// The organisation.
    pub organisation: String,
    /// The outcome for its holder.
    pub joins: Joins,
    /// The member who made it; `None`: the command line.
    pub created_by: Option<UserId>,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

impl Store {
    /// Makes an organisation whose owner is this account, which it owns too where no other does. `false`: the name is taken.
    pub async fn add_organisation(&self, organisation: &Organisation, owner: Option<UserId>) -> Result<bool, Error> {
        let Organisation { id, name, plan, created_at } = organisation;
        let at = millis(*created_at);
        transaction!(self, |db| {
            let adding = sqlx::query(ADD).persistent(false).bind(id).bind(name).bind(plan).bind(at);
            let made = adding.execute(&mut *db).await?.rows_affected() > 0;
            if let Some(owner) = owner.filter(|_| made) {
                let role = MemberRole::Owner.as_str();
                sqlx::query(SET_MEMBER).persistent(false).bind(id).bind(owner.0).bind(role).bind(at).execute(&mut *db).await?;
                sqlx::query(OWN).persistent(false).bind(owner.0).bind(id).execute(&mut *db).await?;
            }
            made
        })
    }

    /// An organisation by its id.
    pub async fn organisation(&self, id: &str) -> Result<Option<Organisation>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BY_ID).bind(id).fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// An organisation by its name.
    pub async fn organisation_called(&self, name: &str) -> Result<Option<Organisation>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, Row>(BY_NAME).bind(name).fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// A part of all organisations in order of id, or of those that this account is a member of.
    pub async fn organisations(&self, member: Option<UserId>, after: &str, limit: u32) -> Result<Vec<Organisation>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST)
            .bind(member.map(|user| user.0))
            .bind(after)
            .bind(i64::from(limit.min(super::MAX_PAGE)))
            .fetch_all(db))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Ends an organisation. Its accounts stay, each on its own again. `false`: there is none.
    pub async fn remove_organisation(&self, id: &str) -> Result<bool, Error> {
        transaction!(self, |db| {
            for statement in LEAVE {
                sqlx::query(statement).persistent(false).bind(id).execute(&mut *db).await?;
            }
            sqlx::query(REMOVE).persistent(false).bind(id).execute(&mut *db).await?.rows_affected() > 0
        })
    }

    /// The members of an organisation, by account.
    pub async fn members(&self, organisation: &str) -> Result<Vec<Member>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, MemberRow>(MEMBERS).bind(organisation).fetch_all(db))?;
        rows.into_iter().map(Member::try_from).collect()
    }

    /// The role of an account in an organisation.
    pub async fn member_role(&self, organisation: &str, user: UserId) -> Result<Option<MemberRole>, Error> {
        let role = on!(self, reader, |db| sqlx::query_scalar::<_, String>(ROLE).bind(organisation).bind(user.0).fetch_optional(db))?;
        role.map(|role| read_role(&role)).transpose()
    }

    /// The role of a member in the organisation that owns an account, and that organisation.
    pub async fn role_over(&self, member: UserId, account: UserId) -> Result<Option<(String, MemberRole)>, Error> {
        let row =
            on!(self, reader, |db| sqlx::query_as::<_, (String, String)>(ROLE_OVER).bind(member.0).bind(account.0).fetch_optional(db))?;
        row.map(|(id, role)| Ok((id, read_role(&role)?))).transpose()
    }

    /// Makes an account a member, or gives a member another role. `false`: the last owner stays one.
    pub async fn set_member(&self, organisation: &str, user: UserId, role: MemberRole, now: OffsetDateTime) -> Result<bool, Error> {
        let done = on!(self, writer, |db| sqlx::query(SET_MEMBER)
            .bind(organisation)
            .bind(user.0)
            .bind(role.as_str())
            .bind(millis(now))
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }

    /// Ends a membership. `false`: there is none, or it is the last owner's.
    pub async fn remove_member(&self, organisation: &str, user: UserId) -> Result<bool, Error> {
        let done = on!(self, writer, |db| sqlx::query(REMOVE_MEMBER)
            .bind(organisation)
            .bind(user.0)
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }

    /// The accounts that an organisation owns: number, name and role.
    pub async fn owned_accounts(&self, organisation: &str) -> Result<Vec<(UserId, String, String)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, String, String)>(OWNED).bind(organisation).fetch_all(db))?;
        Ok(rows.into_iter().map(|(id, name, role)| (UserId(id), name, role)).collect())
    }

    /// Has an organisation own an account. `false`: another one does.
    pub async fn own_account(&self, organisation: &str, user: UserId) -> Result<bool, Error> {
        let done =
            on!(self, writer, |db| sqlx::query(OWN).bind(user.0).bind(organisation).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }

    /// Lets an account go: it is on its own again. `false`: the organisation does not own it.
    pub async fn release_account(&self, organisation: &str, user: UserId) -> Result<bool, Error> {
        let done =
            on!(self, writer, |db| sqlx::query(RELEASE).bind(user.0).bind(organisation).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }

    /// Remembers an invitation by the hash of its secret.
    pub async fn add_organisation_invitation(&self, invitation: &OrganisationInvitation, hash: &str) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(INVITE)
            .bind(&invitation.id)
            .bind(hash)
            .bind(&invitation.organisation)
            .bind(invitation.joins.as_str())
            .bind(invitation.created_by.map(|user| user.0))
            .bind(millis(invitation.expires_at))
            .execute(db)
            .map_ok(drop))
    }

    /// Uses an invitation up: it is good once.
    pub async fn take_organisation_invitation(&self, hash: &str, now: OffsetDateTime) -> Result<Option<OrganisationInvitation>, Error> {
        let row = on!(self, writer, |db| sqlx::query_as::<_, InvitationRow>(TAKE).bind(hash).bind(millis(now)).fetch_optional(db))?;
        row.map(OrganisationInvitation::try_from).transpose()
    }

    /// Invitations of an organisation that are still good.
    pub async fn organisation_invitations(&self, organisation: &str, now: OffsetDateTime) -> Result<Vec<OrganisationInvitation>, Error> {
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, InvitationRow>(INVITATIONS).bind(organisation).bind(millis(now)).fetch_all(db))?;
        rows.into_iter().map(OrganisationInvitation::try_from).collect()
    }

    /// Ends an invitation. `false`: there is none.
    pub async fn revoke_organisation_invitation(&self, organisation: &str, id: &str) -> Result<bool, Error> {
        let done = on!(self, writer, |db| sqlx::query(REVOKE).bind(id).bind(organisation).execute(db).map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }
}

fn read_role<R: FromStr<Err = UnknownMemberRole>>(role: &str) -> Result<R, Error> {
    role.parse().map_err(|e: UnknownMemberRole| Error::Other(sqlx::Error::Decode(Box::new(e))))
}

const ADD: &str = "INSERT INTO organisations (id, name, plan, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
const BY_ID: &str = "SELECT id, name, plan, created_at FROM organisations WHERE id = $1";
const BY_NAME: &str = "SELECT id, name, plan, created_at FROM organisations WHERE name = $1";
const LIST: &str = "SELECT id, name, plan, created_at FROM organisations WHERE id > $2 AND ($1 IS NULL OR EXISTS \
     (SELECT 1 FROM organisation_members WHERE organisation_id = organisations.id AND user_id = $1)) ORDER BY id LIMIT $3";
const LEAVE: [&str; 3] = [
    "DELETE FROM organisation_invitations WHERE organisation_id = $1",
    "DELETE FROM organisation_members WHERE organisation_id = $1",
    "DELETE FROM organisation_accounts WHERE organisation_id = $1",
];
const REMOVE: &str = "DELETE FROM organisations WHERE id = $1";
const MEMBERS: &str = "SELECT CAST(user_id AS BIGINT) AS user_id, users.username AS username, organisation_members.role AS role, added_at \
     FROM organisation_members JOIN users ON users.id = user_id WHERE organisation_id = $1 ORDER BY user_id";
const ROLE: &str = "SELECT role FROM organisation_members WHERE organisation_id = $1 AND user_id = $2";
const ROLE_OVER: &str = "SELECT organisation_members.organisation_id, role FROM organisation_members JOIN organisation_accounts \
     ON organisation_accounts.organisation_id = organisation_members.organisation_id \
     WHERE organisation_members.user_id = $1 AND organisation_accounts.user_id = $2";
/// Another owner than `$2` is in the organisation `$1`.
macro_rules! another_owner {
    () => {
        "EXISTS (SELECT 1 FROM organisation_members AS others WHERE others.organisation_id = $1 AND others.role = 'owner' AND others.user_id <> $2)"
    };
}
const SET_MEMBER: &str = concat!(
    "INSERT INTO organisation_members (organisation_id, user_id, role, added_at) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (organisation_id, user_id) DO UPDATE SET role = EXCLUDED.role \
     WHERE EXCLUDED.role = 'owner' OR organisation_members.role <> 'owner' OR ",
    another_owner!()
);
const REMOVE_MEMBER: &str =
    concat!("DELETE FROM organisation_members WHERE organisation_id = $1 AND user_id = $2 AND (role <> 'owner' OR ", another_owner!(), ")");
const OWNED: &str = "SELECT CAST(users.id AS BIGINT), users.username, users.role FROM organisation_accounts \
     JOIN users ON users.id = organisation_accounts.user_id WHERE organisation_id = $1 ORDER BY users.id";
const OWN: &str = "INSERT INTO organisation_accounts (user_id, organisation_id) VALUES ($1, $2) \
     ON CONFLICT (user_id) DO UPDATE SET organisation_id = EXCLUDED.organisation_id \
     WHERE organisation_accounts.organisation_id = EXCLUDED.organisation_id";
const RELEASE: &str = "DELETE FROM organisation_accounts WHERE user_id = $1 AND organisation_id = $2";
const INVITE: &str =
    "INSERT INTO organisation_invitations (id, hash, organisation_id, role, created_by, expires_at) VALUES ($1, $2, $3, $4, $5, $6)";
const TAKE: &str = "DELETE FROM organisation_invitations WHERE hash = $1 AND expires_at > $2 \
     RETURNING id, organisation_id, role, CAST(created_by AS BIGINT) AS created_by, expires_at";
const INVITATIONS: &str = "SELECT id, organisation_id, role, CAST(created_by AS BIGINT) AS created_by, expires_at \
     FROM organisation_invitations WHERE organisation_id = $1 AND expires_at > $2 ORDER BY id";
const REVOKE: &str = "DELETE FROM organisation_invitations WHERE id = $1 AND organisation_id = $2";

row! {
    struct Row {
        id: String,
        name: String,
        plan: Option<String>,
        created_at: i64,
    }
}

impl From<Row> for Organisation {
    fn from(Row { id, name, plan, created_at }: Row) -> Self {
        Self { id, name, plan, created_at: from_millis(created_at) }
    }
}

row! {
    struct MemberRow {
        user_id: i64,
        username: String,
        role: String,
        added_at: i64,
    }
}

impl TryFrom<MemberRow> for Member {
    type Error = Error;

    fn try_from(row: MemberRow) -> Result<Self, Error> {
        Ok(Self { user: UserId(row.user_id), username: row.username, role: read_role(&row.role)?, added_at: from_millis(row.added_at) })
    }
}

row! {
    struct InvitationRow {
        id: String,
        organisation_id: String,
        role: String,
        created_by: Option<i64>,
        expires_at: i64,
    }
}

impl TryFrom<InvitationRow> for OrganisationInvitation {
    type Error = Error;

    fn try_from(row: InvitationRow) -> Result<Self, Error> {
        let joins = read_role(&row.role)?;
        let (id, organisation) = (row.id, row.organisation_id);
        Ok(Self { id, organisation, joins, created_by: row.created_by.map(UserId), expires_at: from_millis(row.expires_at) })
    }
}
