//! Records of a producer that numbers none and waits for a word about each: in the order they came, once they are in the log.

use std::collections::VecDeque;

use motience_proto::model::{
    envelope::Envelope,
    record::{self, Admitted, Invalid},
};
use serde_json::json;

use super::{Publisher, Refusal, Senders, Ticket};

/// Replies that may wait for the log; a producer further ahead is read no faster than they go.
const MAX_REPLIES: usize = 4096;
/// Bytes of what they quote.
const MAX_TEXT: usize = 256 * 1024;

/// What came together: submitted to the log as one group.
#[derive(Debug, Default)]
pub struct Gathered {
    records: Vec<(Admitted, Option<String>)>,
    answers: Vec<Answer>,
    /// Bytes of the records and of the answers.
    bytes: usize,
}

/// Replies that wait for the log, in the order of what they answer.
#[derive(Debug, Default)]
pub struct Replies {
    waiting: VecDeque<Reply>,
    /// Bytes of the texts in them.
    text: usize,
    /// Records accepted: the `seq` of acknowledgements.
    accepted: u64,
}

#[derive(Debug)]
enum Answer {
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
    /// Once the ticket is in the log: the number, and the client's own name of the record.
    Ack(Ticket, u64, Option<String>),
    Text(String),
}

impl Gathered {
    /// Takes in what a frame means: a record, a ping, or an error to be told.
    pub fn take(&mut self, meaning: Result<Envelope, Invalid>) {
        let answer = match meaning {
            Ok(Envelope::Record(record, id)) => {
                self.bytes += record.json.len();
                self.records.push((record, id.clone()));
                Answer::Ack(id)
            }
            Ok(Envelope::Ping(id)) => Answer::Text(pong(id.as_deref())),
            Ok(Envelope::Unknown(name)) => Answer::Text(error(UNKNOWN_TYPE, &unknown_type(&name))),
            Err(invalid) => Answer::Text(error(invalid.code(), &invalid.to_string())),
        };
        self.bytes += answer.text().len();
        self.answers.push(answer);
    }

    /// Bytes of the records and of the answers taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames taken.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Hands the records to the log's writer, and the answers to those that wait; notes whose records they are. How many records,
    /// and their bytes.
    pub async fn submit(self, publisher: &Publisher, devices: &mut Senders, replies: &mut Replies) -> Result<(u64, u64), Refusal> {
        let counted = (self.records.len() as u64, self.records.iter().map(|(record, _)| record.json.len() as u64).sum());
        let ticket = if self.records.is_empty() {
            Ticket::default()
        } else {
            let mut group = publisher.group();
            for (record, id) in self.records {
                if let Some(device) = record::device_of(&record.json) {
                    devices.seen(&device, publisher.clock_fault(record.time));
                }
                group.push_unnumbered(id.as_deref(), record.json);
            }
            group.submit().await?
        };
        replies.take(self.answers, ticket);
        Ok(counted)
    }
}

impl Replies {
    fn take(&mut self, answers: Vec<Answer>, ticket: Ticket) {
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

    /// Whether more may wait.
    pub fn have_room(&self) -> bool {
        self.waiting.len() < MAX_REPLIES && self.text < MAX_TEXT
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the first may be said, once everything up to this is in the log.
    pub fn are_due(&self, up_to: Ticket) -> bool {
        self.waiting.front().is_some_and(|reply| !matches!(reply, Reply::Ack(ticket, ..) if *ticket > up_to))
    }

    /// The first that may be said.
    pub fn next(&mut self, up_to: Ticket, subscribers: u64) -> Option<String> {
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

/// The code of a message of a type that means nothing here.
pub const UNKNOWN_TYPE: &str = "unknown_type";

/// The same for people.
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

fn error(code: &str, message: &str) -> String {
    json!({"type": "error", "code": code, "message": message}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_bounded_by_what_they_quote() {
        let mut replies = Replies::default();
        replies.waiting.push_back(Reply::Ack(Ticket(1), 1, None));
        let mut gathered = Gathered::default();
        for _ in 0..5 {
            gathered.take(Ok(Envelope::Unknown("y".repeat(60_000))));
        }
        assert!(gathered.bytes() > 256 * 1024 && gathered.len() == 5);
        replies.take(gathered.answers, Ticket::default());
        assert!(!replies.have_room(), "far fewer than 4,096 wait");
        while replies.next(Ticket(1), 0).is_some() {}
        assert!(replies.have_room() && replies.text == 0);
    }
}
