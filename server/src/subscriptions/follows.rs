//! The limit `follows` of plans: subscriptions of a consumer that are in force or asked for.

use axum::http::StatusCode;
use motience_http::ApiError;
use motience_limits::quota::Holder;
use motience_proto::model::{ConsumerId, ProducerId, Status};

use crate::http::Shared;

/// A wish that may begin a subscription.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// The consumer's.
    Subscribe,
    /// The producer's, who approves or invites.
    Approve,
}

impl Wish {
    /// Whether one that stands so counts from then on, and has not counted before.
    fn begins(self, status: Option<Status>) -> bool {
        match self {
            Self::Subscribe => !matches!(status, Some(Status::Active | Status::Requested)),
            Self::Approve => matches!(status, Some(Status::Denied | Status::Revoked | Status::Expired)),
        }
    }
}

/// Whether the plans of a consumer and of its organisation allow this: 409 `too_many_follows`. Two at the same moment may pass them by one.
pub(super) async fn check(services: &Shared, consumer: ConsumerId, producer: ProducerId, wish: Wish) -> Result<(), ApiError> {
    let (backend, now) = (&services.backend, services.backend.clock.now());
    let plans = backend.permits.quotas().plans(consumer.user());
    let limits: Vec<_> = plans.into_iter().filter_map(|(holder, plan)| Some((holder, plan.follows?))).collect();
    if limits.is_empty() || !wish.begins(backend.store.status(consumer, producer, now).await?) {
        return Ok(());
    }
    for (holder, most) in limits {
        let count = match holder {
            Holder::Account(_) => backend.store.wanted_count(consumer, now).await?,
            Holder::Organisation(id) => backend.store.organisation_wanted_count(&id, now).await?,
        };
        if count >= most {
            let sentence = format!("The consumer's plan allows {most} subscriptions in force or asked for: one of them has to end first.");
            return Err(ApiError::new(StatusCode::CONFLICT, "too_many_follows", sentence));
        }
    }
    Ok(())
}
