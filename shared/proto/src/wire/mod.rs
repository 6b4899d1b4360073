//! motience/1, the native protocol: bytes in, frames out. No I/O, no clock.
//!
//! Integers are QUIC varints (RFC 9000, section 16). A frame is `type, length, body`. Unknown frames of an even type
//! are skipped by their length, so that the protocol can grow; an unknown odd type is critical and ends the
//! connection. Every limit is checked before anything is allocated. `docs/protocol.md` describes all of it for whoever writes
//! another client, and `docs/vectors.json` is made of what this module writes.
//!
//! | where | frames |
//! |---|---|
//! | control stream, up | [`Hello`] first, then [`TokenRefresh`], [`Skipped`], [`Template`], [`Subscribe`], [`Unsubscribe`], [`Confirm`], [`Health`], `Ping`, `Done` |
//! | control stream, down | [`Welcome`] first, then [`Ack`], [`Refused`], [`TemplateAccepted`], `Credit`, [`TokenAccepted`], [`Followed`], `Drain`, `Ping`, `Pong`, [`Subscriber`] |
//! | uplink streams (unidirectional, opened by [`StreamKind`]) | [`Record`], [`Compact`] |
//! | datagrams up, one frame each | [`Record`], [`Compact`], numbered from 1 within the connection |
//! | delivery streams (unidirectional, one for each followed producer) | [`DeliveryCursor`] first and after each reset, then [`Entry`], [`Gap`] |

mod ack;
mod close;
pub mod compact;
mod consume;
mod error;
mod frame;
#[cfg(test)]
mod goldens;
mod health;
mod hello;
mod record;
mod subscriber;
mod token;
pub mod varint;
#[cfg(test)]
mod vectors;
mod welcome;

pub use ack::{Ack, MAX_RANGES, Refused, Skipped};
pub use close::CloseCode;
pub use compact::{Compact, Template, TemplateAccepted};
pub use consume::{Confirm, DeliveryCursor, Entry, Followed, Gap, Start, Subscribe, Unsubscribe};
pub use error::{Error, Limits};
pub use frame::{Credit, Frame, StreamKind};
pub use health::Health;
pub use hello::{Hello, Intent};
pub use record::Record;
pub use subscriber::Subscriber;
pub use token::{TokenAccepted, TokenRefresh};
pub use varint::MAX as VARINT_MAX;
pub use welcome::Welcome;

/// The ALPN protocol name.
pub const ALPN: &[u8] = b"motience/1";

/// The version in [`Hello`].
pub const VERSION: u64 = 1;

/// Abilities that a client offers in [`Hello`] and a server confirms in [`Welcome`].
pub mod features {
    /// Records may come in their compact form: see [`super::compact`].
    pub const COMPACT: u64 = 1;
    /// Records may come in datagrams, which are neither acknowledged nor sent again.
    pub const LATEST: u64 = 2;
    /// A follow may have a selection: [`super::Subscribe`].
    pub const SELECTION: u64 = 4;
    /// A follow may have device order: [`super::Subscribe`].
    pub const ORDER: u64 = 8;
    /// A device hears of its producer's subscribers: [`super::Subscriber`].
    pub const SUBSCRIBERS: u64 = 16;
    /// A gap has a cause: [`super::Gap`].
    pub const CAUSES: u64 = 32;
}
