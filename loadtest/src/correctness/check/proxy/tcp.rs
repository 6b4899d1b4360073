//! A bad connection: TCP between one client and any of the nodes, cut or held up on demand.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;

/// The way of one client. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Pipe {
    address: SocketAddr,
    stalled: watch::Sender<bool>,
    /// Ends the connections of now; replaced by a new one each time.
    cut: Arc<Mutex<CancellationToken>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Pipe {
    /// A pipe to any of these, chosen anew for each connection.
    pub(crate) async fn open(targets: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, tasks, (stalled, stall)) = (CancellationToken::new(), TaskTracker::new(), watch::channel(false));
        let cut = Arc::new(Mutex::new(stop.child_token()));
        let accepting = accept(listener, targets, stall, Arc::clone(&cut), tasks.clone());
        let accepting = stop.clone().run_until_cancelled_owned(accepting);
        tasks.spawn(accepting);
        Ok(Self { address, stalled, cut, stop, tasks })
    }

    /// Where the client connects.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection without a word.
    pub(crate) fn cut(&self) {
        let mut cut = self.cut.lock();
        std::mem::replace(&mut *cut, self.stop.child_token()).cancel();
    }

    /// Holds everything up, or lets it go on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

async fn accept(
    listener: TcpListener,
    targets: Vec<SocketAddr>,
    stall: watch::Receiver<bool>,
    cut: Arc<Mutex<CancellationToken>>,
    tasks: TaskTracker,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let Some(target) = fastrand::choice(&targets).copied() else { continue };
        let (stall, cut) = (stall.clone(), cut.lock().clone());
        tasks.spawn(async move {
            // Where the node is away, the client finds its connection closed.
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let both = async {
                tokio::select! {
                    () = carry(from_client, to_server, stall.clone()) => {}
                    () = carry(from_server, to_client, stall) => {}
                }
            };
            cut.run_until_cancelled(both).await;
        });
    }
}

/// Until either end closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut stall: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return };
        if stall.wait_for(|stalled| !stalled).await.is_err() || to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn bytes_pass_wait_and_end() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pipe = Pipe::open(vec![server.local_addr().unwrap()]).await.unwrap();
        let mut client = TcpStream::connect(pipe.address()).await.unwrap();
        let (mut served, _) = timeout(SOON, server.accept()).await.unwrap().unwrap();
        client.write_all(b"one").await.unwrap();
        let mut bytes = [0; 3];
        timeout(SOON, served.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(&bytes, b"one");

        pipe.stall(true);
        served.write_all(b"two").await.unwrap();
        assert!(timeout(Duration::from_millis(100), client.read_exact(&mut bytes)).await.is_err());
        pipe.stall(false);
        timeout(SOON, client.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(&bytes, b"two");

        pipe.cut();
        assert!(matches!(timeout(SOON, client.read(&mut bytes)).await.unwrap(), Ok(0) | Err(_)));
        let mut client = TcpStream::connect(pipe.address()).await.unwrap();
        let (mut served, _) = timeout(SOON, server.accept()).await.unwrap().unwrap();
        client.write_all(b"new").await.unwrap();
        timeout(SOON, served.read_exact(&mut bytes)).await.unwrap().unwrap();
        assert_eq!(&bytes, b"new");
    }
}
