//! A bad link: UDP packets between one client and the nodes, some of them lost, doubled, late, or sent to another node.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::{net::UdpSocket, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest packet.
const PACKET: usize = 65_536;
/// Sockets of clients that may have gone; each restart of a client brings another.
const MAX_CLIENTS: usize = 16;

/// Impairment of packets, as probabilities from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Impairment {
    /// Lost on the way to the node.
    pub(crate) lost_up: f64,
    /// Lost on the way to the client.
    pub(crate) lost_down: f64,
    /// Sent twice.
    pub(crate) doubled: f64,
    /// Held back for up to [`Impairment::HELD`], so that others overtake it.
    pub(crate) held: f64,
}

impl Impairment {
    /// Longest time that a packet is held back, in milliseconds.
    const HELD: u64 = 60;
}

/// A link. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    impairment: Mutex<Impairment>,
    target: Mutex<SocketAddr>,
    tasks: TaskTracker,
}

impl Link {
    /// A link without impairment.
    pub(crate) async fn open(target: SocketAddr) -> Result<Self> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let address = front.local_addr()?;
        let state = Arc::new(State { impairment: Mutex::default(), target: Mutex::new(target), tasks: TaskTracker::new() });
        let stop = CancellationToken::new();
        let up = stop.clone().run_until_cancelled_owned(up(front, Arc::clone(&state), stop.clone()));
        state.tasks.spawn(up);
        Ok(Self { address, state, stop })
    }

    /// Where the client sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn target(&self) -> SocketAddr {
        *self.state.target.lock()
    }

    /// Sends everything elsewhere from now on.
    pub(crate) fn aim(&self, target: SocketAddr) {
        *self.state.target.lock() = target;
    }

    pub(crate) fn set(&self, impairment: Impairment) {
        *self.state.impairment.lock() = impairment;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
        self.state.tasks.close();
    }
}

/// From the client to the node; a socket at the node's side for each client.
async fn up(front: Arc<UdpSocket>, state: Arc<State>, stop: CancellationToken) {
    let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, CancellationToken)> = HashMap::new();
    let mut packet = vec![0; PACKET];
    loop {
        // A closed port at the other end is told here as an error of the socket: no reason to end.
        let Ok((length, client)) = front.recv_from(&mut packet).await else { continue };
        if !clients.contains_key(&client) {
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if clients.len() >= MAX_CLIENTS {
                clients.drain().for_each(|(_, (_, gone))| gone.cancel());
            }
            let (back, gone) = (Arc::new(back), stop.child_token());
            clients.insert(client, (Arc::clone(&back), gone.clone()));
            let down = gone.run_until_cancelled_owned(down(back, Arc::clone(&front), client, Arc::clone(&state)));
            state.tasks.spawn(down);
        }
        let Some((back, _)) = clients.get(&client) else { continue };
        let (impairment, target) = (*state.impairment.lock(), *state.target.lock());
        pass(&packet[..length], back, target, impairment, impairment.lost_up, &state.tasks).await;
    }
}

async fn down(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, state: Arc<State>) {
    let mut packet = vec![0; PACKET];
    loop {
        let Ok((length, _)) = back.recv_from(&mut packet).await else { continue };
        let impairment = *state.impairment.lock();
        pass(&packet[..length], &front, client, impairment, impairment.lost_down, &state.tasks).await;
    }
}

async fn pass(packet: &[u8], socket: &Arc<UdpSocket>, to: SocketAddr, impairment: Impairment, lost: f64, tasks: &TaskTracker) {
    if fastrand::f64() < lost {
        return;
    }
    let copies = if fastrand::f64() < impairment.doubled { 2 } else { 1 };
    for _ in 0..copies {
        if fastrand::f64() < impairment.held {
            let (packet, socket) = (packet.to_vec(), Arc::clone(socket));
            tasks.spawn(async move {
                sleep(Duration::from_millis(fastrand::u64(1..Impairment::HELD))).await;
                // Lost like any other, where it cannot be sent.
                let _ = socket.send_to(&packet, to).await;
            });
        } else {
            let _ = socket.send_to(packet, to).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn packets_go_both_ways_elsewhere_twice_and_nowhere() {
        let (one, two) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let link = Link::open(one.local_addr().unwrap()).await.unwrap();
        let mut packet = [0; 16];
        client.send_to(b"hello", link.address()).await.unwrap();
        let (length, from) = timeout(SOON, one.recv_from(&mut packet)).await.unwrap().unwrap();
        assert_eq!(&packet[..length], b"hello");
        one.send_to(b"back", from).await.unwrap();
        let (length, _) = timeout(SOON, client.recv_from(&mut packet)).await.unwrap().unwrap();
        assert_eq!(&packet[..length], b"back");

        link.aim(two.local_addr().unwrap());
        link.set(Impairment { doubled: 1.0, held: 0.5, ..Impairment::default() });
        client.send_to(b"again", link.address()).await.unwrap();
        for _ in 0..2 {
            let (length, _) = timeout(SOON, two.recv_from(&mut packet)).await.unwrap().unwrap();
            assert_eq!(&packet[..length], b"again");
        }
        link.set(Impairment { lost_up: 1.0, ..Impairment::default() });
        client.send_to(b"lost", link.address()).await.unwrap();
        // Packets sent after the impairment has cleared arrive, and before them none has.
        assert!(timeout(Duration::from_millis(100), two.recv_from(&mut packet)).await.is_err());
        link.set(Impairment::default());
        client.send_to(b"clear", link.address()).await.unwrap();
        let (length, _) = timeout(SOON, two.recv_from(&mut packet)).await.unwrap().unwrap();
        assert_eq!(&packet[..length], b"clear");
    }
}
