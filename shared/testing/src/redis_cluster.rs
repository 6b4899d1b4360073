//! A private Redis Cluster.

use std::{
    fmt::Display,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{Redis, process::free_port};

/// Longest wait for the nodes to agree.
const LIMIT: Duration = Duration::from_secs(40);
/// Slots of every cluster.
const SLOTS: usize = 16_384;
/// Keys that go to another node at once.
const KEYS_AT_ONCE: usize = 100;

/// Masters that share the slots in equal parts, and a replica of each.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters first, then their replicas in this order.
    nodes: Vec<Redis>,
    masters: usize,
    /// The server that is cut off from the others.
    cut_off: watch::Sender<Option<usize>>,
    /// One before the bus port of each server.
    forwarders: Vec<JoinHandle<()>>,
}

impl RedisCluster {
    /// So many masters and as many replicas, once all of them agree.
    pub async fn start(masters: usize) -> Self {
        let (mut nodes, mut forwarders, cut_off) = (Vec::new(), Vec::new(), watch::Sender::new(None));
        for number in 0..2 * masters {
            let bus = free_port();
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
            let announced = listener.local_addr().expect("a listener has a port").port();
            forwarders.push(tokio::spawn(forward(listener, number, bus, cut_off.subscribe())));
            let (bus, announced, from) = (bus.to_string(), announced.to_string(), address(number).to_string());
            let settings = [
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", "1500"],
                ["--cluster-allow-replica-migration", "no"],
                ["--repl-diskless-sync-delay", "0"],
                ["--cluster-port", &bus],
                ["--cluster-announce-ip", "127.0.0.1"],
                ["--cluster-announce-bus-port", &announced],
                ["--bind-source-addr", &from],
                // Redis takes no other address than 127.0.0.1 for its own machine.
                ["--protected-mode", "no"],
            ];
            nodes.push(Redis::with(settings.as_flattened()).await);
        }
        let cluster = Self { nodes, masters, cut_off, forwarders };
        for (i, node) in cluster.nodes.iter().enumerate() {
            // Epochs that differ from the start need not be settled by collisions.
            ok(&node.command(&format!("CLUSTER SET-CONFIG-EPOCH {}", i + 1)).await);
            if i < masters {
                let (from, to) = (i * SLOTS / masters, (i + 1) * SLOTS / masters - 1);
                ok(&node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")).await);
            }
            let first = &cluster.nodes[0];
            ok(&node.command(&format!("CLUSTER MEET 127.0.0.1 {} {}", first.port(), first.setting("--cluster-announce-bus-port"))).await);
        }
        let known = format!("cluster_known_nodes:{}", 2 * masters);
        cluster
            .until_all("the nodes know each other", |node| async move { node.command("CLUSTER INFO").await }, |info| info.contains(&known))
            .await;
        for i in 0..masters {
            let id = cluster.id(i).await;
            until("a replica takes its master", || async {
                cluster.nodes[masters + i].command(&format!("CLUSTER REPLICATE {id}")).await.contains("+OK")
            })
            .await;
        }
        cluster.whole().await;
        cluster
    }

    /// `redis://127.0.0.1:PORT,127.0.0.1:PORT` of all nodes.
    pub fn url(&self) -> String {
        let places: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}", places.join(","))
    }

    /// One of the servers: the first are masters at the start, the others their replicas in this order.
    pub fn node(&self, number: usize) -> &Redis {
        &self.nodes[number]
    }

    /// Number of the server that has this slot now.
    pub async fn owner(&self, slot: u16) -> usize {
        self.find_owner(slot).await.unwrap_or_else(|| panic!("nobody has slot {slot}"))
    }

    async fn find_owner(&self, slot: u16) -> Option<usize> {
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.runs()) {
            let slots = node.command("CLUSTER NODES").await;
            let own = slots.lines().find(|line| line.contains("myself,master")).unwrap_or_default();
            let ranges = own.split(' ').skip(8).filter_map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
            });
            if ranges.into_iter().any(|range| range.contains(&slot)) {
                return Some(number);
            }
        }
        None
    }

    /// Slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        let running = self.nodes.iter().find(|node| node.runs()).expect("a server runs");
        let answer = running.command(&format!("CLUSTER KEYSLOT {key}")).await;
        answer.lines().next().and_then(|line| line.strip_prefix(':')?.parse().ok()).expect("a slot")
    }

    /// A slot of this server's in which there are keys of a producer.
    pub async fn used_slot(&self, number: usize) -> Option<u16> {
        let found = self.nodes[number].command("SCAN 0 MATCH m:*:log COUNT 100000").await;
        let key = found.lines().find(|line| line.ends_with(":log"))?;
        Some(self.slot(key).await)
    }

    /// Moves a slot to another server, or to its successor, as an operator's tool does: again where a server lost its part meanwhile.
    pub async fn move_slot(&self, slot: u16, to: usize) {
        until_ok("a slot moves", || async { self.try_move_slot(slot, self.master(to % self.masters).await).await }).await;
    }

    async fn try_move_slot(&self, slot: u16, to: usize) -> Result<(), String> {
        let from = self.try_begin_move(slot, to).await?;
        loop {
            let answer = self.nodes[from].command(&format!("CLUSTER GETKEYSINSLOT {slot} {KEYS_AT_ONCE}")).await;
            let keys: Vec<&str> = answer.lines().filter(|line| line.starts_with("m:")).collect();
            if keys.is_empty() {
                break;
            }
            // One by one, so that calls come in between.
            for key in keys {
                self.try_move_key(key, from, to).await?;
            }
        }
        self.try_end_move(slot, from, to).await
    }

    /// Begins to move a slot, and says which server has had it. Its keys stay until they are [moved](Self::move_key).
    pub async fn begin_move(&self, slot: u16, to: usize) -> usize {
        self.try_begin_move(slot, to).await.expect("both are masters")
    }

    /// Moves one key of a slot that is being moved, if it is there.
    pub async fn move_key(&self, key: &str, from: usize, to: usize) {
        self.try_move_key(key, from, to).await.expect("both are masters");
    }

    /// Gives a slot to the server that has all of its keys by now.
    pub async fn end_move(&self, slot: u16, from: usize, to: usize) {
        self.try_end_move(slot, from, to).await.expect("both are masters");
    }

    async fn try_begin_move(&self, slot: u16, to: usize) -> Result<usize, String> {
        let from = self.find_owner(slot).await.ok_or("nobody has it")?;
        if from != to {
            accepted(&self.nodes[to].command(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", self.id(from).await)).await, "+OK")?;
            accepted(&self.nodes[from].command(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", self.id(to).await)).await, "+OK")?;
        }
        Ok(from)
    }

    async fn try_move_key(&self, key: &str, from: usize, to: usize) -> Result<(), String> {
        if from == to {
            return Ok(());
        }
        let moved = self.nodes[from].command(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", self.nodes[to].port())).await;
        accepted(&moved, "+OK").or_else(|_| accepted(&moved, "+NOKEY"))
    }

    async fn try_end_move(&self, slot: u16, from: usize, to: usize) -> Result<(), String> {
        let target = self.id(to).await;
        for number in [to, from] {
            accepted(&self.nodes[number].command(&format!("CLUSTER SETSLOT {slot} NODE {target}")).await, "+OK")?;
        }
        Ok(())
    }

    /// Cuts this server off from the others, which take it for lost, while clients and its replica go on reaching it; `None`: nobody is cut off.
    pub fn cut_off(&self, number: Option<usize>) {
        self.cut_off.send_replace(number);
    }

    /// Ends a server as a crash would.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].kill();
    }

    /// Starts a server again, which follows whoever has its slots by now.
    pub async fn start_again(&mut self, number: usize) {
        self.nodes[number].start_again().await;
    }

    /// Waits until this server is a master.
    pub async fn until_master(&self, number: usize) {
        until("a replica is promoted", || async { self.nodes[number].command("ROLE").await.contains("master") }).await;
    }

    /// Number of the server that is the master of this part of the slots, parts being numbered as the masters at the start.
    pub async fn master(&self, part: usize) -> usize {
        let replica = part + self.masters;
        match (self.nodes[part].is_master().await, self.nodes[replica].is_master().await) {
            (false, true) => replica,
            // One was away while the other took over, and does not know that yet.
            (true, true) if self.epoch(replica).await > self.epoch(part).await => replica,
            _ => part,
        }
    }

    /// Epoch of the configuration that a server has its slots by: whoever took over last has the highest.
    async fn epoch(&self, number: usize) -> u64 {
        let told = self.nodes[number].command("CLUSTER INFO").await;
        told.lines().find_map(|line| line.strip_prefix("cluster_my_epoch:")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Has the replica of a part take over from its master, in order.
    pub async fn fail_over(&self, part: usize) {
        let replica = (self.master(part).await + self.masters) % self.nodes.len();
        let replica = &self.nodes[replica];
        until("a replica takes over", || async {
            // Redis gives an attempt up after five seconds.
            replica.command("CLUSTER FAILOVER").await;
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(6) && !replica.is_master().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            replica.is_master().await
        })
        .await;
    }

    /// Waits until all servers that run take the cluster to be whole, and each part has a master and a replica that has its data, if both run.
    pub async fn whole(&self) {
        self.until_all(
            "the cluster is whole",
            |node| async move { node.command("CLUSTER INFO").await },
            |info| info.contains("cluster_state:ok"),
        )
        .await;
        for part in 0..self.masters {
            let (one, other) = (&self.nodes[part], &self.nodes[part + self.masters]);
            if one.runs() && other.runs() {
                until("a part has a master and a replica", || async {
                    one.is_master().await && other.is_replica().await || other.is_master().await && one.is_replica().await
                })
                .await;
            }
        }
    }

    async fn id(&self, number: usize) -> String {
        let answer = self.nodes[number].command("CLUSTER MYID").await;
        answer.lines().nth(1).expect("a node has an id").to_owned()
    }

    async fn until_all<'a, F: Future<Output = String>>(&'a self, what: &str, ask: impl Fn(&'a Redis) -> F, so: impl Fn(&str) -> bool) {
        for node in self.nodes.iter().filter(|node| node.runs()) {
            until(what, || async { so(&ask(node).await) }).await;
        }
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        self.forwarders.iter().for_each(JoinHandle::abort);
    }
}

/// The address from which a server connects to others, by which it is known.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).expect("a small cluster"))
}

/// Hands on what others send to the bus port of this server, unless one of both is cut off.
async fn forward(listener: TcpListener, number: usize, bus: u16, cut_off: watch::Receiver<Option<usize>>) {
    while let Ok((mut caller, from)) = listener.accept().await {
        let mut cut_off = cut_off.clone();
        tokio::spawn(async move {
            let apart = |lost: &Option<usize>| lost.is_some_and(|lost| lost == number || from.ip() == IpAddr::V4(address(lost)));
            if apart(&cut_off.borrow_and_update()) {
                return;
            }
            let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, bus)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut caller, &mut server) => {}
                _ = cut_off.wait_for(apart) => {}
            }
        });
    }
}

fn ok(answer: &str) {
    accepted(answer, "+OK").expect("the server takes the command");
}

fn accepted(answer: &str, wanted: &str) -> Result<(), String> {
    if answer.starts_with(wanted) { Ok(()) } else { Err(answer.to_owned()) }
}

async fn until<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    until_ok(what, || async { if so().await { Ok(()) } else { Err("not yet") } }).await;
}

async fn until_ok<E: Display, F: Future<Output = Result<(), E>>>(what: &str, done: impl Fn() -> F) {
    let deadline = Instant::now() + LIMIT;
    while let Err(why) = done().await {
        assert!(Instant::now() < deadline, "it takes too long until {what}: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
