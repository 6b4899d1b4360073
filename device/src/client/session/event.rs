//! Events of a session: messages of the server, as its owner reads them.

use motience_proto::{
    model::{ProducerId, RangeSet},
    wire::{DeliveryCursor, Entry, Frame, Gap, Refused, Subscriber},
};

use crate::client::Error;

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These records are in the log.
    Acked(RangeSet),
    /// This record never will be in the log.
    Refused(Refused),
    /// So many records may be in flight from now on.
    Credit(u64),
    /// The node is going away.
    Drain,
    /// The renewed token holds for so many seconds.
    TokenAccepted(u64),
    /// A subscription of the producer is in another state: see [`crate::client::Config::subscribers`].
    Subscriber(Subscriber),
    /// A follow is in force (empty refusal), was refused, or ended.
    Followed {
        /// The producer.
        producer: ProducerId,
        /// Why not.
        refusal: String,
    },
    /// A range of the log is gone.
    Gap(Gap),
    /// A delivery stream began, went on in another log epoch, or came this far.
    Cursor(DeliveryCursor),
    /// Entries of a delivery stream, rising.
    Entries {
        /// The producer.
        producer: ProducerId,
        /// Entries of its stream.
        entries: Vec<Entry>,
    },
}

/// The event of a frame on the control stream; `None` for frames that need no answer.
pub(super) fn event(frame: Frame) -> Result<Option<Event>, Error> {
    Ok(Some(match frame {
        Frame::Ack(ack) => Event::Acked(ack.ranges),
        Frame::Refused(refused) => Event::Refused(refused),
        Frame::Credit(credit) => Event::Credit(credit.records),
        Frame::Drain => Event::Drain,
        Frame::TokenAccepted(accepted) => Event::TokenAccepted(accepted.expires_in),
        Frame::Subscriber(subscriber) => Event::Subscriber(subscriber),
        Frame::Followed(followed) => Event::Followed { producer: followed.producer, refusal: followed.refusal },
        // The transport's own keep-alive does the work of a ping; a server's is left unanswered without harm.
        Frame::Ping | Frame::Pong => return Ok(None),
        other => return Err(Error::Protocol(format!("{} on the control stream", other.name()))),
    }))
}
