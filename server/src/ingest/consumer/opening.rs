//! How a follow begins: whether it may, and where. A database or a log that is away is asked again until it answers, as long as the
//! consumer wants the follow; nothing else of its connection waits for that.

use std::sync::Arc;

use motience_proto::{
    model::{CursorName, ProducerId, Selection},
    wire::{From, Subscribe},
};
use motience_relay::{
    ReadFrom, Rights,
    view::{self, Thinned, View},
};
use motience_session::CloseReason;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{super::Shared, feed::Feed};

/// A follow that is wanted.
pub(super) struct Opening {
    producer: ProducerId,
    from: ReadFrom,
    /// The durable cursor that it moves.
    pub(super) name: Option<CursorName>,
    view: Option<View>,
}

/// What became of it: a feed, or a refusal.
pub(super) struct Opened {
    pub(super) producer: ProducerId,
    pub(super) stop: CancellationToken,
    pub(super) outcome: Result<Feed, &'static str>,
}

impl Opening {
    /// What the consumer asks for, or why it makes no sense.
    pub(super) fn read(subscribe: &Subscribe) -> Result<Self, &'static str> {
        let from = match subscribe.from {
            From::Live => ReadFrom::Live,
            From::Earliest => ReadFrom::Earliest,
            From::After(cursor) => ReadFrom::After(cursor),
            From::Time(ms) => {
                ReadFrom::Time(OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH))
            }
        };
        let view = view(&subscribe.view).map_err(|()| view::Error::CODE)?;
        let name = match subscribe.durable.as_str() {
            "" => None,
            name => Some(CursorName::new(name).map_err(|_| "invalid_cursor_name")?),
        };
        Ok(Self { producer: subscribe.producer, from, name, view })
    }

    /// Ends with the follow, whatever it waits for.
    pub(super) async fn run(self, shared: Arc<Shared>, rights: Arc<Rights>, stop: CancellationToken) -> Result<Opened, CloseReason> {
        let producer = self.producer;
        let opened = stop.run_until_cancelled(rights.open(producer, self.from, self.name.as_ref())).await;
        let outcome = match opened.transpose()? {
            None => Err("unsubscribed"),
            Some(None) => Err("not_subscribed"),
            Some(Some(subscriber)) => {
                let thinned = self.view.map(|view| Thinned::new(view, shared.config.view));
                Ok(Feed::new(producer, subscriber, thinned, shared.config.write))
            }
        };
        Ok(Opened { producer, stop, outcome })
    }
}

/// A follow's view; `None` where it wants everything. The client made the text of a selection, so what is wrong with its
/// expressions is told over HTTP, where people try them.
fn view(text: &str) -> Result<Option<View>, ()> {
    if text.is_empty() {
        return Ok(None);
    }
    let selection: Selection = serde_json::from_str(text).map_err(|_| ())?;
    View::of(&selection).map(Some).map_err(|_| ())
}
