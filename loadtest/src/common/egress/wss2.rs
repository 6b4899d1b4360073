//! wss2, plain and as `motience.v2`.

use anyhow::{Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{Egress, Incoming, Start, Target, escaped};

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Start positions that a query holds; more are sent in messages of so many.
const POSITIONS: usize = 300;

/// An open socket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(super) async fn open(egress: Egress, target: &Target, start: &Start) -> Result<Self> {
        let mut url = format!("{}?token={}", target.server, target.token);
        if egress == Egress::Wss2 {
            url.push_str("&v=2");
        }
        let later = matches!(start, Start::After(_)) && target.producers.len() > POSITIONS;
        if later {
            url.push_str("&resume=later");
        } else if let Start::After(_) = start {
            url.push_str(&format!("&resume={}", escaped(&start.map(&target.producers)?)));
        }
        let config = WebSocketConfig::default().read_buffer_size(READ);
        let (mut socket, _) = match target.source {
            None => connect_async_with_config(url, Some(config), true).await?,
            Some(source) => {
                let from = TcpSocket::new_v4()?;
                from.set_nodelay(true)?;
                from.bind((source, 0).into())?;
                let stream = from.connect(target.address()?).await?;
                client_async_with_config(url, MaybeTlsStream::Plain(stream), Some(config)).await?
            }
        };
        if later {
            let mut parts = target.producers.chunks(POSITIONS).peekable();
            while let Some(part) = parts.next() {
                let (cursors, more) = (start.map(part)?, parts.peek().is_some());
                socket.send(Message::text(format!(r#"{{"type":"resume","cursors":{cursors},"more":{more}}}"#))).await?;
            }
        }
        Ok(Self(socket))
    }

    /// Returns when the node has answered a ping of the protocol above; nothing else is expected before.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.0.send(Message::text(r#"{"type":"ping"}"#)).await?;
        loop {
            match self.next().await {
                Incoming::Message(text) if Incoming::notice(&text).as_deref() == Some("pong") => return Ok(()),
                Incoming::Message(_) => {}
                Incoming::End(why) => bail!("the connection has ended: {why}"),
            }
        }
    }

    pub(super) async fn next(&mut self) -> Incoming {
        loop {
            return match self.0.next().await {
                Some(Ok(Message::Text(text))) => Incoming::Message(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => Incoming::End(format!("closed: {frame:?}")),
                Some(Ok(_)) => continue,
                Some(Err(e)) => Incoming::End(format!("broken: {e}")),
                None => Incoming::End("ended".to_owned()),
            };
        }
    }
}
