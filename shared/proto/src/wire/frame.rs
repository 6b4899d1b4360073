//! The frame: type, length, body; and the stream kinds that frames travel on.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Ack, Compact, Confirm, DeliveryCursor, Entry, Followed, Gap, Health, Hello, Record, Refused, Skipped, Subscribe, Subscriber, Template,
    TemplateAccepted, TokenAccepted, TokenRefresh, Unsubscribe, Welcome,
    compact::Encoded,
    error::{Error, Limits},
    varint::{self, Body},
};

/// Kind of a unidirectional stream: its first varint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Records in order, one long stream.
    Ordered,
    /// A record or a few, one short stream.
    Independent,
    /// Delivery stream: a followed producer's entries, down.
    Delivery,
}

impl StreamKind {
    /// Appends the kind: the first byte of its stream.
    pub fn encode(self, out: &mut BytesMut) {
        out.put_u8(match self {
            Self::Ordered => 1,
            Self::Independent => 2,
            Self::Delivery => 3,
        });
    }

    /// Takes the kind from the front of `buf`; `None` where there is nothing yet.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, Error> {
        let Some((kind, size)) = varint::peek(buf, 0) else { return Ok(None) };
        let kind = match kind {
            1 => Self::Ordered,
            2 => Self::Independent,
            3 => Self::Delivery,
            other => return Err(Error::UnknownStream(other)),
        };
        let _ = buf.split_to(size);
        Ok(Some(kind))
    }
}

impl From<Encoded> for Frame {
    fn from(record: Encoded) -> Self {
        match record {
            Encoded::Compact(compact) => Self::Compact(compact),
            Encoded::Plain(record) => Self::Record(record),
        }
    }
}

/// Declares the frames once: their numbers, their names, how each body is written and read.
macro_rules! frames {
    ($($(#[$doc:meta])* $number:literal $name:ident $(($body:ident))?),+ $(,)?) => {
        /// Every frame of motience/1.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Frame {
            $($(#[$doc])* $name $(($body))?,)+
        }

        /// The number of every frame, for tests that must leave none out.
        #[cfg(test)]
        pub(super) const NUMBERS: &[u64] = &[$($number),+];

        impl Frame {
            /// The frame's name, for logs and close reasons.
            pub fn name(&self) -> &'static str {
                match self {
                    $(frames!(@pattern $name body $(($body))?) => stringify!($name),)+
                }
            }

            pub(super) fn number(&self) -> u64 {
                match self {
                    $(frames!(@pattern $name body $(($body))?) => $number,)+
                }
            }

            fn put_body(&self, out: &mut BytesMut) {
                match self {
                    $(frames!(@bind $name body $(($body))?) => { frames!(@put out body $(($body))?); })+
                }
            }

            fn read(number: u64, bytes: Bytes) -> Result<Option<Self>, Error> {
                match number {
                    $($number => {
                        #[allow(unused_mut, clippy::allow_attributes, reason = "frames without a body read nothing")]
                        let mut body = Body::new(bytes, stringify!($name));
                        let frame = frames!(@read $name body $(($body))?);
                        body.end()?;
                        Ok(Some(frame))
                    })+
                    critical if critical % 2 == 1 => Err(Error::UnknownCritical(critical)),
                    _ => Ok(None),
                }
            }
        }
    };
    (@pattern $name:ident $b:ident ($body:ident)) => { Self::$name(_) };
    (@pattern $name:ident $b:ident) => { Self::$name };
    (@bind $name:ident $b:ident ($body:ident)) => { Self::$name($b) };
    (@bind $name:ident $b:ident) => { Self::$name };
    (@put $out:ident $b:ident ($body:ident)) => { $b.put($out) };
    (@put $out:ident $b:ident) => { };
    (@read $name:ident $b:ident ($body:ident)) => { Self::$name($body::read(&mut $b)?) };
    (@read $name:ident $b:ident) => { Self::$name };
}

frames! {
    /// First on the control stream: the client's identity and intent.
    0x01 Hello(Hello),
    /// The answer to `Hello`.
    0x03 Welcome(Welcome),
    /// A renewed access token.
    0x05 TokenRefresh(TokenRefresh),
    /// The renewed token holds.
    0x07 TokenAccepted(TokenAccepted),
    /// Records that are in the log.
    0x09 Ack(Ack),
    /// A record that will never be in the log.
    0x0b Refused(Refused),
    /// The request to follow a producer.
    0x0d Subscribe(Subscribe),
    /// The end of a follow.
    0x0f Unsubscribe(Unsubscribe),
    /// The answer to `Subscribe`.
    0x11 Followed(Followed),
    /// A range of a log that is gone.
    0x13 Gap(Gap),
    /// The client sends nothing more and waits for the last acknowledgements.
    0x15 Done,
    /// Numbers whose records will never be sent.
    0x17 Skipped(Skipped),
    /// Everything up to a cursor is dealt with.
    0x19 Confirm(Confirm),
    /// Constant part of records to come.
    0x1b Template(Template),
    /// Records of this template may come.
    0x1d TemplateAccepted(TemplateAccepted),
    /// Number of records that may be in flight.
    0x02 Credit(Credit),
    /// The node is going away: finish, reconnect elsewhere.
    0x04 Drain,
    /// Asks for a `Pong`.
    0x06 Ping,
    /// The answer to `Ping`.
    0x08 Pong,
    /// State of the device: its backlog and its loss.
    0x0a Health(Health),
    /// A subscriber of the producer is another, or in another state.
    0x0c Subscriber(Subscriber),
    /// A record, up.
    0x21 Record(Record),
    /// Position of a delivery stream, down.
    0x23 Cursor(DeliveryCursor),
    /// A log entry, down.
    0x25 Entry(Entry),
    /// A record, up, as the values of its template's slots.
    0x27 Compact(Compact),
}

/// Body of [`Frame::Credit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Records that may be in flight from now on: sent, and neither acknowledged nor refused.
    pub records: u64,
}

impl Credit {
    fn put(&self, out: &mut BytesMut) {
        varint::put(self.records, out);
    }

    fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { records: body.number()? })
    }
}

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        varint::put(self.number(), out);
        // The common cases: the length is known, so the body goes straight into place.
        match self {
            Self::Record(record) => {
                varint::put(record.size() as u64, out);
                return record.put(out);
            }
            Self::Compact(record) => {
                varint::put(record.size() as u64, out);
                return record.put(out);
            }
            _ => {}
        }
        let mut body = BytesMut::new();
        self.put_body(&mut body);
        varint::put(body.len() as u64, out);
        out.unsplit(body);
    }

    /// Takes the next known frame from the front of `buf`, skipping unknown ones that may be skipped.
    ///
    /// `None`: more bytes are needed. The body is a slice of `buf`'s memory, not a copy.
    pub fn decode(buf: &mut BytesMut, limits: Limits) -> Result<Option<Self>, Error> {
        loop {
            let Some((number, type_size)) = varint::peek(buf, 0) else { return Ok(None) };
            let Some((length, length_size)) = varint::peek(buf, type_size) else { return Ok(None) };
            if length > limits.frame as u64 {
                return Err(Error::TooLarge { length, limit: limits.frame });
            }
            let (head, length) = (type_size + length_size, length as usize);
            if buf.len() < head + length {
                return Ok(None);
            }
            let _ = buf.split_to(head);
            if let Some(frame) = Self::read(number, buf.split_to(length).freeze())? {
                return Ok(Some(frame));
            }
        }
    }
}

#[cfg(test)]
mod tests;
