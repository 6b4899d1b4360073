//! wss2, plain and as `motience.v2`.

use anyhow::Result;
use futures_util::StreamExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{Egress, Incoming, Start, Target, escaped};

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// An open socket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(super) async fn open(egress: Egress, target: &Target, start: &Start) -> Result<Self> {
        let mut url = format!("{}?token={}", target.server, target.token);
        if egress == Egress::Wss2 {
            url.push_str("&v=2");
        }
        if let Start::After(_) = start {
            url.push_str(&format!("&resume={}", escaped(&start.map(&target.producers)?)));
        }
        let config = WebSocketConfig::default().read_buffer_size(READ);
        let (socket, _) = connect_async_with_config(url, Some(config), true).await?;
        Ok(Self(socket))
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
