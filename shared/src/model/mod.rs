//! The nouns of Motience: ids, users, subscriptions, records.

pub mod ids;
pub mod ranges;
pub mod record;
pub mod subscription;
pub mod user;

pub use ids::{ConsumerId, DeviceId, Epoch, Fence, LogEpoch, Offset, ProducerId, Seq, UserId};
pub use ranges::RangeSet;
pub use subscription::{Status, Subscription};
pub use user::{Role, User};
