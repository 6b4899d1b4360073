//! Sessions: one authenticated connection of a device or a client, whatever transport it comes by.
//!
//! A transport reads and writes; everything else is here. [`admit`] decides who may come in, [`produce`] is the producer side of
//! motience/1 over QUIC and the tunnel, [`consume`] the consumer side over QUIC and WebTransport, [`MessageSession`] the producers' JSON over WebSocket and WebTransport, and [`CloseReason`] says on
//! each of them why a session ended.

mod acks;
mod admission;
mod batch;
mod close;
mod consumer;
mod host;
mod latest;
mod messages;
mod producer;
mod replies;
mod subscribers;

pub use admission::{Admitted, admit, authenticate, count_end, hello, ration, report_end, while_authorized};
pub use close::CloseReason;
pub use consumer::{Answer, ConsumerTransport, Refusal, Request, consume};
pub use host::{Host, Limits};
pub use messages::{Message, MessagePublisher, MessageSession, MessageTransport, given, read};
pub use producer::{Received, Transport, Wanted, carries_nothing, produce};
pub use replies::{ClientRecord, UNKNOWN_TYPE, error_reply, pong, unknown_type};
pub use subscribers::{NoEvents, heard, subscription_message, wanted_events};
