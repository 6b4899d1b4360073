//! The replies to JSON messages: one for each record, in the order the records came, once they are in the log.

use std::collections::VecDeque;

use motience_proto::model::{
    envelope::Envelope,
    record::{Admitted, Invalid},
};
use motience_relay::Ticket;
use serde_json::json;

/// Replies that may wait for the log; a producer further ahead is read no faster than they go.
const MAX_REPLIES: usize = 4096;
/// Bytes of what they quote.
const MAX_TEXT: usize = 256 * 1024;

/// A record, and the id its client gives it.
pub type ClientRecord = (Admitted, Option<String>);

/// Messages that came together: their records are one append.
#[derive(Debug, Default)]
pub(super) struct MessageBatch {
    records: Vec<ClientRecord>,
    answers: Vec<Answer>,
    /// Bytes of the records and of the answers.
    bytes: usize,
}

/// Replies that wait for the log, in the order of the messages.
#[derive(Debug, Default)]
pub(super) struct ReplyQueue {
    waiting: VecDeque<Reply>,
    /// Bytes of the texts in them.
    text: usize,
    /// Records accepted: the `seq` of acknowledgements.
    accepted: u64,
}

/// The answer to a message, before its record is submitted.
#[derive(Debug)]
pub(super) enum Answer {
    Ack(Option<String>),
    Text(String),
}

impl Answer {
    fn text(&self) -> &str {
        match self {
            Self::Ack(id) => id.as_deref().unwrap_or_default(),
            Self::Text(text) => text,
        }
    }
}

#[derive(Debug)]
enum Reply {
    /// Once the ticket is committed: the number, and the client id of the record.
    Ack(Ticket, u64, Option<String>),
    Text(String),
}

impl MessageBatch {
    /// Takes a message's meaning: a record, a ping, or an error to report.
    pub(super) fn take(&mut self, meaning: Result<Envelope, Invalid>) {
        let answer = match meaning {
            Ok(Envelope::Record(record, id)) => {
                self.bytes += record.json.len();
                self.records.push((record, id.clone()));
                Answer::Ack(id)
            }
            Ok(Envelope::Ping(id)) => Answer::Text(pong(id.as_deref())),
            Ok(Envelope::Unknown(name)) => Answer::Text(error_reply(UNKNOWN_TYPE, &unknown_type(&name))),
            Err(invalid) => Answer::Text(error_reply(invalid.code(), &invalid.to_string())),
        };
        self.bytes += answer.text().len();
        self.answers.push(answer);
    }

    /// Bytes of the records and of the answers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records, and the answers to all messages.
    pub(super) fn into_parts(self) -> (Vec<ClientRecord>, Vec<Answer>) {
        (self.records, self.answers)
    }
}

impl ReplyQueue {
    /// Keeps the answers until the ticket of their records is committed.
    pub(super) fn take(&mut self, answers: Vec<Answer>, ticket: Ticket) {
        for answer in answers {
            self.text += answer.text().len();
            self.waiting.push_back(match answer {
                Answer::Text(text) => Reply::Text(text),
                Answer::Ack(id) => {
                    self.accepted += 1;
                    Reply::Ack(ticket, self.accepted, id)
                }
            });
        }
    }

    /// Whether more replies may wait.
    pub(super) fn have_room(&self) -> bool {
        self.waiting.len() < MAX_REPLIES && self.text < MAX_TEXT
    }

    /// Whether no reply waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the first reply may be sent, once everything up to this ticket is in the log.
    pub(super) fn are_due(&self, up_to: Ticket) -> bool {
        self.waiting.front().is_some_and(|reply| !matches!(reply, Reply::Ack(ticket, ..) if *ticket > up_to))
    }

    /// The first reply that may be sent.
    pub(super) fn next(&mut self, up_to: Ticket, subscribers: u64) -> Option<String> {
        if !self.are_due(up_to) {
            return None;
        }
        let reply = self.waiting.pop_front()?;
        if let Reply::Ack(_, _, Some(text)) | Reply::Text(text) = &reply {
            self.text -= text.len();
        }
        Some(match reply {
            Reply::Ack(_, seq, None) => format!(r#"{{"type":"ack","seq":{seq},"subscriberCount":{subscribers}}}"#),
            Reply::Ack(_, seq, Some(id)) => json!({"type": "ack", "seq": seq, "id": id, "subscriberCount": subscribers}).to_string(),
            Reply::Text(text) => text,
        })
    }
}

/// The code of the reply to a message of a type that means nothing here.
pub const UNKNOWN_TYPE: &str = "unknown_type";

/// The reply's sentence about a message of this type, which means nothing here.
pub fn unknown_type(name: &str) -> String {
    format!("there is no message of type '{name}'; readings called so are sent as {{\"type\":\"data\",\"payload\":{{…}}}}")
}

/// The answer to a ping, with the id it came with.
pub fn pong(id: Option<&str>) -> String {
    match id {
        Some(id) => format!(r#"{{"type":"pong","id":{id}}}"#),
        None => r#"{"type":"pong"}"#.to_owned(),
    }
}

/// The reply to a message that cannot be acted on: a code for programs, a sentence for people.
pub fn error_reply(code: &str, message: &str) -> String {
    json!({"type": "error", "code": code, "message": message}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_bounded_by_what_they_quote() {
        let mut replies = ReplyQueue::default();
        replies.waiting.push_back(Reply::Ack(Ticket(1), 1, None));
        let mut batch = MessageBatch::default();
        for _ in 0..5 {
            batch.take(Ok(Envelope::Unknown("y".repeat(60_000))));
        }
        assert!(batch.bytes() > 256 * 1024 && batch.answers.len() == 5);
        replies.take(batch.answers, Ticket::default());
        assert!(!replies.have_room(), "far fewer than 4,096 wait");
        while replies.next(Ticket(1), 0).is_some() {}
        assert!(replies.have_room() && replies.text == 0);
    }
}
