//! The request that a task serves: where it comes from and whose it is. The audit log reads it here, so that no function between passes it on.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

tokio::task_local! {
    static ORIGIN: Origin;
}

/// Where a request comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Origin {
    address: IpAddr,
    /// The account that asks; 0 until it is known.
    account: Arc<AtomicI64>,
}

impl Origin {
    /// A request from this address, by nobody who is known yet.
    pub fn new(address: IpAddr) -> Self {
        Self { address, account: Arc::default() }
    }

    /// The client's address; of IPv6 the /64.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The account that asks, once its token was found good.
    pub fn account(&self) -> Option<i64> {
        Some(self.account.load(Ordering::Relaxed)).filter(|account| *account != 0)
    }

    /// Serves the request.
    pub async fn serve<T>(self, request: impl Future<Output = T>) -> T {
        ORIGIN.scope(self, request).await
    }
}

/// Origin of the request that this task serves; `None`: it serves none, as on the command line.
pub fn current() -> Option<Origin> {
    ORIGIN.try_with(Clone::clone).ok()
}

/// Notes the account that asks, if this task serves a request.
pub fn is_of(account: i64) {
    let _ = ORIGIN.try_with(|origin| origin.account.store(account, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_knows_its_origin_and_other_tasks_have_none() {
        let origin = Origin::new([192, 0, 2, 1].into());
        origin
            .clone()
            .serve(async {
                assert_eq!(current().map(|origin| (origin.address().to_string(), origin.account())), Some(("192.0.2.1".to_owned(), None)));
                is_of(7);
                assert!(tokio::spawn(async { current() }).await.unwrap().is_none());
            })
            .await;
        assert_eq!(origin.account(), Some(7), "also for whoever looks after the answer");
        is_of(8);
        assert!(current().is_none());
    }
}
