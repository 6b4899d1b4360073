//! Two nodes behind a balancer of UDP: connection ids that it reads (QUIC-LB), and session tickets that both nodes read.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey};
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Lane};
use motience_proto::{
    model::{DeviceId, ProducerEpoch},
    wire::Intent,
};
use motience_testing::{Postgres, Redis};
use parking_lot::Mutex;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

use crate::{
    harness::{Account, LIMIT, Node, account, server},
    quic::{acked, record, record_of},
    unread::{metric, until_metric},
};

const SECRET: (&str, &str) = ("JWT_SECRET", "a secret that is long enough for this test");
const KEY: [u8; 16] = [0x8f, 0x95, 0xf0, 0x92, 0x45, 0x76, 0x5f, 0x80, 0x25, 0x69, 0x34, 0xe5, 0x0c, 0x66, 0x20, 0x7f];
const KEY_TEXT: &str = "8f95f09245765f80256934e50c66207f";

/// How the balancer reads ids.
#[derive(Clone)]
struct Reading {
    config: u8,
    servers: [Vec<u8>; 2],
    nonce: usize,
    encrypted: bool,
}

impl Reading {
    /// The node that an id is of: what the draft calls the load balancer's actions.
    fn node(&self, id: &[u8]) -> Option<usize> {
        let (first, body) = id.split_first()?;
        let body = body.get(..self.servers[0].len() + self.nonce)?;
        if first >> 5 != self.config {
            return None;
        }
        let plain = if self.encrypted { decrypted(body) } else { body.to_vec() };
        self.servers.iter().position(|server| plain.starts_with(server))
    }
}

fn decrypted(body: &[u8]) -> Vec<u8> {
    let key = || UnboundCipherKey::new(&AES_128, &KEY).unwrap();
    let (length, half) = (body.len(), body.len().div_ceil(2));
    if length == 16 {
        let mut block = body.to_vec();
        DecryptingKey::ecb(key()).unwrap().decrypt(&mut block, DecryptionContext::None).unwrap();
        return block;
    }
    assert_eq!(length % 2, 0, "the tests have no odd ones");
    let cipher = EncryptingKey::ecb(key()).unwrap();
    let mix = |half_in: &[u8], other: &[u8], pass: u8| -> Vec<u8> {
        let mut block = [half_in, &[0; 14][..14 - half], &[u8::try_from(length).unwrap(), pass]].concat();
        cipher.encrypt(&mut block).unwrap();
        other.iter().zip(block).map(|(a, b)| a ^ b).collect()
    };
    let (left2, right2) = body.split_at(half);
    let left1 = mix(right2, left2, 4);
    let right1 = mix(&left1, right2, 3);
    let left0 = mix(&right1, &left1, 2);
    let right0 = mix(&left0, &right1, 1);
    [left0, right0].concat()
}

/// A balancer: by the id where it reads it, otherwise where the address went before, otherwise to the node that is preferred.
struct Balancer {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    preferred: usize,
    by_address: HashMap<SocketAddr, usize>,
    by_id: u64,
    by_choice: u64,
    /// Packets that came since they were asked for.
    seen: Option<Vec<Vec<u8>>>,
}

impl Balancer {
    async fn start(nodes: [&Node; 2], reading: Option<Reading>) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (at, state) = (front.local_addr().unwrap(), Arc::new(Mutex::new(State::default())));
        let nodes: [SocketAddr; 2] = nodes.map(|node| node.at.quic.as_deref().unwrap().parse().unwrap());
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&state);
        tasks.spawn(async move {
            let mut backs: HashMap<(SocketAddr, usize), Arc<UdpSocket>> = HashMap::new();
            let (mut buffer, mut returning) = (vec![0; 65536], JoinSet::<()>::new());
            loop {
                let (length, client) = front.recv_from(&mut buffer).await.unwrap();
                let packet = &buffer[..length];
                let node = shared.lock().route(packet, client, reading.as_ref());
                if let std::collections::hash_map::Entry::Vacant(vacant) = backs.entry((client, node)) {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    back.connect(nodes[node]).await.unwrap();
                    vacant.insert(Arc::clone(&back));
                    let front = Arc::clone(&front);
                    returning.spawn(async move {
                        let mut buffer = vec![0; 65536];
                        loop {
                            // Refused packets are lost ones.
                            if let Ok(length) = back.recv(&mut buffer).await {
                                let _ = front.send_to(&buffer[..length], client).await;
                            }
                        }
                    });
                }
                let _ = backs[&(client, node)].send(packet).await;
            }
        });
        Self { at, state, _tasks: tasks }
    }

    fn prefer(&self, node: usize) {
        self.state.lock().preferred = node;
    }

    fn connector(&self, ca: &Node, device: &str) -> Connector {
        let trust = Trust::Ca(ca.at.ca.clone().unwrap());
        Connector::new(Config::new(self.at.to_string().parse().unwrap(), trust, DeviceId::new(device).unwrap())).unwrap()
    }
}

impl State {
    fn route(&mut self, packet: &[u8], client: SocketAddr, reading: Option<&Reading>) -> usize {
        if let Some(seen) = &mut self.seen {
            seen.push(packet.to_vec());
        }
        let id = if packet[0] & 0x80 == 0 { &packet[1..] } else { &packet[6..][..usize::from(packet[5])] };
        if let Some(node) = reading.and_then(|reading| reading.node(id)) {
            self.by_id += 1;
            return node;
        }
        let (preferred, by_choice) = (self.preferred, &mut self.by_choice);
        *self.by_address.entry(client).or_insert_with(|| {
            *by_choice += 1;
            preferred
        })
    }
}

/// Two servers of one platform. The folder has their certificate.
struct Platform {
    nodes: [Node; 2],
    producer: Account,
    redis: Redis,
    _parts: (Arc<Postgres>, TempDir),
}

async fn platform(own: [&[(&str, &str)]; 2]) -> Platform {
    let (redis, postgres, certs) = (Redis::durable().await, Arc::new(Postgres::start().await), TempDir::new().unwrap());
    let (redis_url, database_url) = (redis.url(), postgres.url());
    let shared = [("REDIS_URL", &*redis_url), ("DATABASE_URL", &*database_url), ("CERTS_DIR", certs.path().to_str().unwrap()), SECRET];
    let start = async |own: &[(&str, &str)]| Node::start(server(), &["--roles", "ap,sm,dsm,ingest"], &[&shared[..], own].concat()).await;
    let nodes = [start(own[0]).await, start(own[1]).await];
    let producer = account(nodes[0].at.ap.as_deref().unwrap(), "producer", "p").await;
    Platform { nodes, producer, redis, _parts: (postgres, certs) }
}

async fn migrates(own: [&[(&str, &str)]; 2], reading: Reading) {
    let platform = platform(own).await;
    let token = SecretString::from(platform.producer.token.as_str());
    let balancer = Balancer::start(platform.nodes.each_ref(), Some(reading)).await;
    let mut held = Vec::new();
    for n in 0..4 {
        balancer.prefer(n % 2);
        let (name, choices) = (format!("d{n}"), balancer.state.lock().by_choice);
        let connector = balancer.connector(&platform.nodes[0], &name);
        let mut session = timeout(LIMIT, connector.connect(&token, Intent::Produce, ProducerEpoch(1))).await.unwrap().unwrap();
        // From here on a choice would be a wrong one.
        balancer.prefer(1 - n % 2);
        for seq in 1..=3 {
            session.send(Lane::Independent, record_of(&name, seq)).await.unwrap();
            acked(&mut session, seq..=seq).await;
            connector.rebind().unwrap();
        }
        assert_eq!(balancer.state.lock().by_choice, choices + 1, "only the first packets are of no node");
        held.push((connector, session));
    }
    let (one, other) = (&platform.nodes[0], &platform.nodes[1]);
    assert!(balancer.state.lock().by_id > 12);
    for node in [one, other] {
        assert!(metric(node, "motience_quic_connections").await > 1.5, "each node has two of them");
    }
}

#[tokio::test]
async fn a_balancer_finds_the_node_of_a_device_that_moved_by_encrypted_ids() {
    let common = [("QUIC_LB_KEY", KEY_TEXT), ("QUIC_LB_CONFIG", "2"), ("QUIC_SOCKETS", "3")];
    let own = ["0a01", "0a02"].map(|id| [&common[..], &[("QUIC_SERVER_ID", id)]].concat());
    let servers = [vec![10, 1], vec![10, 2]];
    migrates([&own[0], &own[1]], Reading { config: 2, servers, nonce: 8, encrypted: true }).await;
}

#[tokio::test]
async fn a_balancer_finds_the_node_of_a_device_that_moved_by_ids_of_aws() {
    let own = [
        [("AWS_LBC_QUIC_SERVER_ID", "LWV1oW+gjqQ="), ("QUIC_SOCKETS", "2")],
        [("AWS_LBC_QUIC_SERVER_ID", "LWV1oW+gjqU="), ("QUIC_SOCKETS", "2")],
    ];
    let servers = [0xa4, 0xa5].map(|last| vec![0x2d, 0x65, 0x75, 0xa1, 0x6f, 0xa0, 0x8e, last]);
    migrates([&own[0], &own[1]], Reading { config: 0, servers, nonce: 8, encrypted: false }).await;
}

/// Waits until a node has counted a first flight whose ticket was such.
async fn counted(node: &Node, ticket: &str) {
    until_metric(node, &format!("motience_quic_early_data_total{{ticket=\"{ticket}\"}}"), |times| times > 0.5).await;
}

#[tokio::test]
async fn a_ticket_is_good_on_every_node_and_for_one_first_flight() {
    let platform = platform([&[], &[]]).await;
    let [first, second] = &platform.nodes;
    let token = SecretString::from(platform.producer.token.as_str());
    let balancer = Balancer::start([first, second], None).await;
    let connector = balancer.connector(first, "d");
    let open = async |early: &[motience_proto::wire::Record]| {
        timeout(LIMIT, connector.produce(&token, ProducerEpoch(7), early, false)).await.unwrap().unwrap()
    };
    let go_to = |node: usize| {
        let mut state = balancer.state.lock();
        state.preferred = node;
        state.by_address.clear();
        state.seen = Some(Vec::new());
    };
    let mut session = open(&[]).await;
    session.send(Lane::Independent, record(1)).await.unwrap();
    acked(&mut session, 1..=1).await;
    session.finish().await;
    connector.idle().await;

    // The other node takes what comes in the first flight.
    go_to(1);
    let mut session = open(&[record(2), record(3)]).await;
    assert_eq!((session.early(), connector.early()), (2, (1, 0)));
    acked(&mut session, 2..=3).await;
    counted(second, "first").await;
    // Whoever has listened sends it to the node that has not seen it: nothing is done before the handshake's end, which never comes.
    let flight = balancer.state.lock().seen.take().unwrap();
    let replaying = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in flight.iter().take_while(|packet| packet[0] & 0x80 != 0) {
        replaying.send_to(packet, first.at.quic.as_deref().unwrap()).await.unwrap();
    }
    counted(first, "again").await;
    assert!(metric(first, "motience_quic_connections").await < 0.5, "no session was opened");
    session.finish().await;
    connector.idle().await;

    // Without the register nobody knows: the handshake ends first, and nothing is lost.
    go_to(0);
    platform.redis.pause();
    let early = [record(4)];
    let (mut session, ()) = tokio::join!(open(&early), async {
        counted(first, "unknown").await;
        platform.redis.resume();
    });
    acked(&mut session, 4..=4).await;
    assert_eq!(connector.early(), (2, 0));
    session.finish().await;
}
