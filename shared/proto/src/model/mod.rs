//! The nouns of Motience: ids, users, subscriptions, records.

pub mod agreement;
pub mod cursor_name;
pub mod device;
pub mod envelope;
pub mod gap;
pub mod ids;
pub mod member;
pub mod plan;
pub mod ranges;
pub mod record;
pub mod selection;
pub mod subscription;
pub mod times;
pub mod transport;
pub mod user;

pub use agreement::{Agreement, ConsentGrant, Party};
pub use cursor_name::{CursorName, InvalidCursorName};
pub use device::{DeviceState, UnknownDeviceState};
pub use gap::GapCause;
pub use ids::{ConsumerId, Cursor, DeviceId, Fence, LogEpoch, LogId, LogKey, Offset, ProducerEpoch, ProducerId, RecordId, Seq, UserId};
pub use member::{MemberRole, UnknownMemberRole};
pub use plan::PlanLimits;
pub use ranges::RangeSet;
pub use selection::{InvalidOrder, Order, Selection};
pub use subscription::{Status, Subscription, Visibility};
pub use transport::Transport;
pub use user::{Account, Role, User};
