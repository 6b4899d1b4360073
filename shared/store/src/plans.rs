//! The tables `plans` and `account_plans`: how much accounts and organisations may have, as the operator sets it.

use futures_util::TryFutureExt;
use motience_proto::model::{PlanLimits, UserId};
use motience_runtime::clock::millis;
use time::OffsetDateTime;

use super::{Error, Store, on};

/// A plan that holds for an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedPlan {
    /// The account.
    pub user: UserId,
    /// The organisation whose plan it is; `None`: its own.
    pub organisation: Option<String>,
    /// The limits.
    pub limits: PlanLimits,
}

impl Store {
    /// Makes a plan, or changes it.
    pub async fn set_plan(&self, name: &str, limits: &PlanLimits, now: OffsetDateTime) -> Result<(), Error> {
        let limits = serde_json::to_string(limits).map_err(|e| Error::Other(sqlx::Error::Encode(Box::new(e))))?;
        on!(self, writer, |db| sqlx::query(SET).bind(name).bind(limits.as_str()).bind(millis(now)).execute(db).map_ok(drop))
    }

    /// All plans, by name.
    pub async fn plans(&self) -> Result<Vec<(String, PlanLimits)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (String, String)>(ALL).fetch_all(db))?;
        rows.into_iter().map(|(name, limits)| Ok((name, read(&limits)?))).collect()
    }

    /// Removes a plan: whoever has it has none from then on. `false`: there is none.
    pub async fn remove_plan(&self, name: &str) -> Result<bool, Error> {
        for statement in [FREE_ACCOUNTS, FREE_ORGANISATIONS] {
            on!(self, writer, |db| sqlx::query(statement).bind(name).execute(db).map_ok(drop))?;
        }
        Ok(on!(self, writer, |db| sqlx::query(REMOVE).bind(name).execute(db).map_ok(|done| done.rows_affected()))? > 0)
    }

    /// Gives an account a plan, or none. `false`: there is no such plan.
    pub async fn give_plan(&self, user: UserId, plan: Option<&str>) -> Result<bool, Error> {
        let Some(plan) = plan else {
            return on!(self, writer, |db| sqlx::query(TAKE).bind(user.0).execute(db).map_ok(|_| true));
        };
        Ok(on!(self, writer, |db| sqlx::query(GIVE).bind(user.0).bind(plan).execute(db).map_ok(|done| done.rows_affected()))? > 0)
    }

    /// Gives an organisation a plan, or none. `false`: there is no such plan or organisation.
    pub async fn give_organisation_plan(&self, organisation: &str, plan: Option<&str>) -> Result<bool, Error> {
        let done = on!(self, writer, |db| sqlx::query(GIVE_ORGANISATION)
            .bind(organisation)
            .bind(plan)
            .execute(db)
            .map_ok(|done| done.rows_affected()))?;
        Ok(done > 0)
    }

    /// Every plan that an account has: its own, and its organisation's.
    pub async fn assigned_plans(&self) -> Result<Vec<AssignedPlan>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, Option<String>, String)>(ASSIGNED).fetch_all(db))?;
        let assigned = |(user, organisation, limits): (i64, Option<String>, String)| {
            Ok(AssignedPlan { user: UserId(user), organisation, limits: read(&limits)? })
        };
        rows.into_iter().map(assigned).collect()
    }
}

fn read(limits: &str) -> Result<PlanLimits, Error> {
    serde_json::from_str(limits).map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))))
}

const SET: &str = "INSERT INTO plans (name, limits, changed_at) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET limits = EXCLUDED.limits, changed_at = EXCLUDED.changed_at";
const ALL: &str = "SELECT name, limits FROM plans ORDER BY name";
const FREE_ACCOUNTS: &str = "DELETE FROM account_plans WHERE plan = $1";
const FREE_ORGANISATIONS: &str = "UPDATE organisations SET plan = NULL WHERE plan = $1";
const REMOVE: &str = "DELETE FROM plans WHERE name = $1";
const TAKE: &str = "DELETE FROM account_plans WHERE user_id = $1";
const GIVE: &str = "INSERT INTO account_plans (user_id, plan) SELECT $1, name FROM plans WHERE name = $2 \
     ON CONFLICT (user_id) DO UPDATE SET plan = EXCLUDED.plan";
const GIVE_ORGANISATION: &str =
    "UPDATE organisations SET plan = $2 WHERE id = $1 AND ($2 IS NULL OR EXISTS (SELECT 1 FROM plans WHERE name = $2))";
const ASSIGNED: &str = "SELECT CAST(account_plans.user_id AS BIGINT), CAST(NULL AS VARCHAR(32)), plans.limits \
     FROM account_plans JOIN plans ON plans.name = account_plans.plan \
     UNION ALL SELECT CAST(organisation_accounts.user_id AS BIGINT), organisations.id, plans.limits FROM organisation_accounts \
     JOIN organisations ON organisations.id = organisation_accounts.organisation_id JOIN plans ON plans.name = organisations.plan";
