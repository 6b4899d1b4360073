//! Connections that stay are counted, in all and for each account.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::ApiError;
use crate::model::UserId;

/// When an account that has all its seats may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// How many connections there may be, in all and for each account.
#[derive(Debug)]
pub struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_each: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<UserId, usize>,
}

/// A seat; free again when dropped.
#[derive(Debug)]
pub struct Seat {
    taken: Arc<Mutex<Taken>>,
    most_each: usize,
    /// Whose, once that is known.
    user: Option<UserId>,
}

impl Seats {
    /// `most` in all, `most_each` for one account.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self { taken: Arc::default(), most, most_each }
    }

    /// A seat for this account: 503 or 429 where there is none.
    pub fn take(&self, user: UserId) -> Result<Seat, ApiError> {
        let mut seat = self.reserve()?;
        seat.claim(user)?;
        Ok(seat)
    }

    /// A seat for someone who is yet to say who it is.
    pub fn reserve(&self) -> Result<Seat, ApiError> {
        let mut taken = lock(&self.taken);
        if taken.all >= self.most {
            return Err(ApiError::unavailable("full", "This node has no room for another connection. Try again."));
        }
        taken.all += 1;
        Ok(Seat { taken: Arc::clone(&self.taken), most_each: self.most_each, user: None })
    }
}

impl Seat {
    /// Counts it as this account's.
    pub fn claim(&mut self, user: UserId) -> Result<(), ApiError> {
        let mut taken = lock(&self.taken);
        let each = taken.each.entry(user).or_default();
        if *each >= self.most_each {
            return Err(ApiError::too_many(RETRY_AFTER).with_code("too_many_connections"));
        }
        *each += 1;
        self.user = Some(user);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        let Some(user) = self.user else { return };
        if let Some(each) = taken.each.get_mut(&user) {
            *each -= 1;
            if *each == 0 {
                taken.each.remove(&user);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
