//! A fleet of one account whose node is killed: all of it is back by itself, without logins, and each device by one connection.

use std::{path::Path, sync::Arc, time::Duration};

use motience_certs::Trust;
use motience_device::{
    Credentials, Producer,
    client::{self, Lane},
    login::Auth,
    producer::Config,
};
use motience_proto::model::DeviceId;
use motience_testing::port_settings;
use tokio::time::{Instant, sleep};

use crate::{
    harness::{Account, LIMIT, Node, PASSWORD, account},
    quic::ap,
};

const DEVICES: usize = 100;
const VARIABLES: [(&str, &str); 2] =
    [("JWT_SECRET", "a secret of tests, long enough to pass"), ("MAX_UNAUTHENTICATED_PER_ADDRESS", "1000")];

struct Fleet(Vec<Arc<Producer>>);

impl Fleet {
    fn start(node: &Node, account: &Account, password: &str, tokens: &Path) -> Self {
        let trust = Trust::Ca(node.at.ca.clone().unwrap());
        let auth = Auth::new(ap(node), &trust).unwrap();
        let devices = (0..DEVICES).map(|n| {
            let id = DeviceId::new(&format!("d{n}")).unwrap();
            let server = node.at.quic.as_deref().unwrap().parse().unwrap();
            let mut config = Config::new(client::Config::new(server, trust.clone(), id));
            // A device that waits in vain for an acknowledgement does so for longer than this test.
            config.ack_timeout = Duration::from_secs(3600);
            let credentials = Credentials::account(auth.clone(), &account.username, password.into());
            Arc::new(Producer::start(config, credentials.kept_in(tokens.join(format!("{n}.json")))).unwrap())
        });
        Self(devices.collect())
    }

    /// Each sends a record, and hears that it is in the log.
    async fn report(&self, when: &str) {
        for (n, device) in self.0.iter().enumerate() {
            let record = format!(r#"{{"device_id":"d{n}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
            device.try_send(Lane::default(), record).unwrap();
        }
        let deadline = Instant::now() + 2 * LIMIT;
        while self.0.iter().any(|device| device.stats().outbox.records > 0) {
            let waiting: Vec<_> = self.0.iter().map(|device| device.stats()).filter(|stats| stats.outbox.records > 0).collect();
            assert!(Instant::now() < deadline, "{when}: {} devices wait, one of them so: {:?}", waiting.len(), waiting.first());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// On several threads, as devices and servers are: what one hears too early another must not miss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_comes_back_after_a_crash_of_its_node_without_logins() {
    let (node, ports) = start(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let tokens = tempfile::tempdir().unwrap();
    let fleet = Fleet::start(&node, &producer, PASSWORD, tokens.path());
    fleet.report("at first").await;
    // From now on no login could succeed.
    drop(fleet);
    let fleet = Fleet::start(&node, &producer, "no longer so", tokens.path());
    fleet.report("after a restart of the devices, by the refresh tokens that they kept").await;

    let _node = crash(node, &ports).await;
    fleet.report("after the crash").await;
}

/// Settings that say where a node listens.
type Ports = [(String, String)];

/// Starts a node where it can be started again, at ports that nobody else is given meanwhile.
async fn start(more: &[(&str, &str)]) -> (Node, Box<Ports>) {
    let ports = port_settings(["AP", "QUIC"]).into_boxed_slice();
    (Node::embedded(&[&variables(&ports), more].concat()).await, ports)
}

/// Kills the node, and starts it where the devices look for it.
async fn crash(node: Node, ports: &Ports) -> Node {
    node.crash(&variables(ports)).await
}

fn variables(ports: &Ports) -> Vec<(&str, &str)> {
    VARIABLES.into_iter().chain(ports.iter().map(|(name, port)| (name.as_str(), port.as_str()))).collect()
}

/// The node itself tells it so, at the next keep-alive: whoever waits for a silence that is long enough waits a minute.
#[tokio::test]
async fn a_device_without_a_record_to_send_hears_that_its_node_was_killed() {
    let (node, ports) = start(&[("QUIC_IDLE_TIMEOUT", "1h")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let server = node.at.quic.as_deref().unwrap().parse().unwrap();
    let mut config = client::Config::new(server, Trust::Ca(node.at.ca.clone().unwrap()), DeviceId::new("d1").unwrap());
    config.quic.keep_alive = Duration::from_millis(200);
    // Silence says nothing within this test.
    config.quic.idle_timeout = Duration::from_secs(3600);
    let device = Producer::start(Config::new(config), Credentials::Token(producer.token.into())).unwrap();
    device.connected().await.unwrap();
    let _node = crash(node, &ports).await;
    let deadline = Instant::now() + LIMIT;
    while device.stats().transport.reconnects == 0 {
        assert!(Instant::now() < deadline, "{:?}", device.stats());
        sleep(Duration::from_millis(50)).await;
    }
}
