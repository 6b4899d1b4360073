//! The states of a subscription, as a pure function; the machine stands at the head of `proto/model/subscription.rs`.

use motience_proto::model::{Status, Subscription, UserId, Visibility};
use time::OffsetDateTime;

use super::Terms;
use crate::Error;

/// A move that somebody makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// The consumer subscribes to a producer of this visibility.
    Subscribe(Visibility),
    /// The consumer leaves.
    Unsubscribe,
    /// The producer approves without having been asked.
    Invite(Terms),
    /// The producer approves what there is.
    Approve(Terms),
    /// The producer refuses a request.
    Deny,
    /// The producer takes back what it gave.
    Revoke,
}

/// Outcome of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing changes.
    Stays,
    /// The row has another state, or another grant.
    To(Status, Grant),
}

/// Members of a row that consent sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) requested_at: Option<OffsetDateTime>,
    pub(super) decided_at: Option<OffsetDateTime>,
    pub(super) decided_by: Option<UserId>,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) scope: Option<String>,
}

impl Grant {
    fn of(subscription: &Subscription) -> Self {
        let Subscription { requested_at, decided_at, decided_by, expires_at, scope, .. } = subscription.clone();
        Self { requested_at, decided_at, decided_by, expires_at, scope }
    }

    fn requested(now: OffsetDateTime) -> Self {
        Self { requested_at: Some(now), ..Self::default() }
    }

    fn decided(self, by: Option<UserId>, now: OffsetDateTime) -> Self {
        Self { decided_at: Some(now), decided_by: by, ..self }
    }

    fn under(self, terms: &Terms) -> Self {
        Self { expires_at: terms.expires_at, scope: terms.scope.clone(), ..self }
    }
}

impl Move {
    /// The name of the act that ended in this state.
    pub(super) fn act(&self, status: Status) -> &'static str {
        match self {
            Self::Subscribe(_) if status == Status::Requested => "subscription.request",
            Self::Subscribe(_) => "subscription.subscribe",
            Self::Unsubscribe => "subscription.unsubscribe",
            Self::Invite(_) => "subscription.invite",
            Self::Approve(_) => "subscription.approve",
            Self::Deny => "subscription.deny",
            Self::Revoke => "subscription.revoke",
        }
    }
}

/// Where a move leads from a subscription as it stands at `now`; `None`: there is none.
pub(super) fn next(from: Option<&Subscription>, step: &Move, by: Option<UserId>, now: OffsetDateTime) -> Result<Next, Error> {
    let status = from.map(|subscription| subscription.status);
    let grant = || from.map(Grant::of).unwrap_or_default();
    let approved = from.is_some_and(Subscription::is_approved);
    let over = from.is_some_and(|subscription| subscription.expires_at.is_some_and(|ends| ends <= now));
    let to = |status, grant| Ok(Next::To(status, grant));
    match step {
        Move::Subscribe(visibility) => match (status, visibility) {
            (Some(Status::Active), _) => Ok(Next::Stays),
            (Some(Status::Invited | Status::Inactive), _) if approved && !over => to(Status::Active, grant()),
            (_, Visibility::Private) => Err(Error::NotInvited),
            (Some(refused @ (Status::Denied | Status::Revoked)), _) => Err(Error::Refused(refused)),
            // An end that the producer set is not passed by subscribing again.
            (Some(Status::Expired | Status::Invited | Status::Inactive), _) if approved => to(Status::Requested, Grant::requested(now)),
            (_, Visibility::Open) => to(Status::Active, Grant { requested_at: grant().requested_at, ..Grant::default() }),
            (Some(Status::Requested), Visibility::Listed) => Ok(Next::Stays),
            (_, Visibility::Listed) => to(Status::Requested, Grant::requested(now)),
        },
        Move::Unsubscribe => match status {
            Some(Status::Active | Status::Requested | Status::Invited) => to(Status::Inactive, grant()),
            Some(other) => Err(Error::WrongState(other)),
            None => Err(Error::NoSubscription),
        },
        Move::Invite(terms) | Move::Approve(terms) => {
            let to_be = match status {
                None if matches!(step, Move::Approve(_)) => return Err(Error::NoSubscription),
                // The consumer has left, or never came: its records begin when it subscribes.
                None | Some(Status::Invited | Status::Inactive) => Status::Invited,
                // The consumer has asked, or had it.
                Some(_) => Status::Active,
            };
            let granted = grant().under(terms);
            if approved && status == Some(to_be) && granted == grant() {
                return Ok(Next::Stays);
            }
            to(to_be, granted.decided(by, now))
        }
        Move::Deny => match status {
            Some(Status::Requested) => to(Status::Denied, grant().decided(by, now)),
            Some(Status::Denied) => Ok(Next::Stays),
            Some(other) => Err(Error::WrongState(other)),
            None => Err(Error::NoSubscription),
        },
        Move::Revoke => match status {
            Some(Status::Active | Status::Invited | Status::Inactive | Status::Expired) => to(Status::Revoked, grant().decided(by, now)),
            Some(Status::Revoked) => Ok(Next::Stays),
            Some(other) => Err(Error::WrongState(other)),
            None => Err(Error::NoSubscription),
        },
    }
}
