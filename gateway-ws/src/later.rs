//! A resume of more producers than fit into the head of a request: `?resume=later`, and then messages with some of the positions each. The consumer
//! begins with the last of them, so that no record comes before its position is known.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use motience_proto::model::{ProducerId, record};
use motience_relay::{
    StartPosition,
    pipeline::position::{self, WrittenPosition},
};
use motience_session::{CloseReason, error_reply};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::socket::{Socket, SocketEvent};

/// The text of the query.
pub(crate) const LATER: &str = "later";
/// Positions of one consumer.
const MOST: usize = 100_000;
/// Longest wait for the last of them.
const LIMIT: Duration = Duration::from_secs(10);

/// Some positions, as a `resume` has them, and whether more come.
#[derive(Deserialize)]
struct Part {
    r#type: String,
    cursors: HashMap<String, WrittenPosition>,
    #[serde(default)]
    more: bool,
}

/// Reads messages until one says that no more come.
pub(crate) async fn positions(socket: &mut Socket) -> Result<HashMap<ProducerId, StartPosition>, CloseReason> {
    let late = |_| CloseReason::protocol("no resume in time");
    timeout(LIMIT, gather(socket)).await.map_err(late)?
}

async fn gather(socket: &mut Socket) -> Result<HashMap<ProducerId, StartPosition>, CloseReason> {
    let mut all = HashMap::new();
    loop {
        let text: Bytes = match socket.event().await? {
            SocketEvent::Text(text) => text.into(),
            SocketEvent::Binary(bytes) => bytes,
            SocketEvent::KeepAlive => continue,
        };
        socket.spend()?;
        let part = serde_json::from_slice::<Part>(&record::without_mark(text)).ok().filter(|part| part.r#type == "resume");
        let read = part.and_then(|Part { cursors, more, .. }| Some((position::checked(cursors).ok()?, more)));
        let Some((some, more)) = read else {
            socket.send(Message::Text(error_reply("invalid_cursors", position::CURSORS).into())).await?;
            continue;
        };
        all.extend(some);
        if all.len() > MOST {
            return Err(CloseReason::TooLarge(format!("a consumer resumes at most {MOST} producers").into()));
        }
        if !more {
            return Ok(all);
        }
    }
}
