//! `loadtest check-consumer`: a consumer as a process of its own, which writes down what it receives and then how far it came.
//!
//! A record is in the history before the cursor is moved behind it, so that a SIGKILL between the two brings that one record
//! again and never loses any.

mod cursors;
mod json;
mod native;

use std::path::PathBuf;

use anyhow::Result;
use motience_proto::model::{Cursor, RecordId};
use serde::{Deserialize, Serialize};

use self::cursors::Cursors;
use super::{
    history::{Event, Kind, Writer},
    orders::Orders,
    record,
};

/// Orders for a consumer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) token: String,
    /// The link to the nodes: `host:port` of QUIC, a WebSocket's URL, or the base URL of the data service.
    pub(crate) server: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) history: PathBuf,
    /// A folder for cursors.
    pub(crate) cursors: PathBuf,
    pub(crate) producers: Vec<i64>,
}

/// Reads until it is told to end.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    motience_certs::install_provider();
    let book = Book { history: Writer::open(&plan.history)?, cursors: Cursors::open(&plan.cursors, &plan.producers)? };
    for producer in &plan.producers {
        book.history.put(Event::Resumed { producer: *producer, cursor: book.cursors.get(*producer) });
    }
    let mut orders = Orders::listen();
    let reading = async {
        match plan.kind {
            Kind::Native => native::read(&plan, book).await,
            Kind::Json(egress) => json::read(egress, &plan, book).await,
        }
    };
    tokio::select! {
        result = reading => result,
        // Finished or left alone: in both cases everything is written down already.
        _ = orders.next() => Ok(()),
    }
}

/// Where everything is written down.
struct Book {
    history: Writer,
    cursors: Cursors,
}

impl Book {
    fn received(&mut self, producer: i64, cursor: Cursor, name: RecordId, message: &str) -> Result<()> {
        let (id, hash) = record::read(message)?;
        self.history.put(Event::Received { producer, cursor, name, id, hash });
        self.cursors.set(producer, cursor)
    }

    fn reset(&mut self, producer: i64, cursor: Cursor) -> Result<()> {
        self.history.put(Event::Reset { producer, cursor });
        self.cursors.set(producer, cursor)
    }

    fn gap(&mut self, producer: i64, from: u64, to: u64) -> Result<()> {
        self.history.put(Event::Gap { producer, from, to });
        let cursor = self.cursors.get(producer).unwrap_or_default();
        self.cursors.set(producer, Cursor { offset: motience_proto::model::Offset(to), ..cursor })
    }

    fn note(&self, what: String) {
        self.history.put(Event::Note { what });
    }
}
