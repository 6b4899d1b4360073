//! A bad network link inside this machine: two namespaces, a TUN device in each, and a relay between them that delays,
//! loses, doubles and holds back packets as a seeded generator says.
//!
//! The device's side has two uplinks with an address each, of which one is up; the server's side has one fixed address.
//! Nothing leads out of the two, and nothing into them but the relay. Needs root.
//!
//! ```no_run
//! use motience_loadtest::link::{Link, Name};
//!
//! # fn main() -> Result<(), motience_loadtest::link::Error> {
//! let link = Link::new(Name::Lte.profile(), 1)?;
//! let server = link.server().runtime(1)?;
//! let device = link.device().runtime(1)?;
//! server.spawn(async { /* listens on link::SERVER */ });
//! device.spawn(async { /* connects to link::SERVER */ });
//! link.use_uplink(1)?;
//! # Ok(())
//! # }
//! ```

mod emulator;
mod impairment;
mod namespace;
mod nat;
mod profiles;
mod relay;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
};

use tun_rs::{DeviceBuilder, SyncDevice};

pub use emulator::{Dropped, Emulator, Outcome};
pub use impairment::{Bursts, Impairment, Loss, Outages, Profile, Rate};
pub use namespace::Namespace;
pub use profiles::Name;
pub use relay::{Block, Counts, Direction};

/// Where the server's side answers: RFC 2544 keeps these addresses for tests of networks.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 1);
/// The device's addresses, by uplink.
pub const UPLINKS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 2), Ipv4Addr::new(198, 18, 1, 2)];

/// Links of this process so far: each has names of its own.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct Error {
    what: String,
    source: std::io::Error,
}

impl Error {
    fn new(what: impl Into<String>, source: std::io::Error) -> Self {
        Self { what: what.into(), source }
    }

    /// Whether this machine does not let us, rather than that something of ours is wrong: we are not root, or root of a
    /// container that may not do everything.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let said = self.source.to_string();
        self.source.kind() == std::io::ErrorKind::PermissionDenied
            || self.what.contains("TUN")
            || ["Operation not permitted", "Permission denied", "mount --make-shared"].iter().any(|denial| said.contains(denial))
    }
}

/// A link; its namespaces end with it, and what runs in them loses its network.
pub struct Link {
    relay: relay::Relay,
    device: Namespace,
    server: Namespace,
}

impl Link {
    /// A link with this profile. Equal seeds drop the same packets.
    pub fn new(profile: Profile, seed: u64) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            return Err(Error::new("network namespaces and TUN devices need root: run it with sudo, or as root in a container", denied));
        }
        namespace::sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (device, server) = (Namespace::new("device", number)?, Namespace::new("server", number)?);
        let mut uplinks = Vec::new();
        for (n, address) in UPLINKS.iter().enumerate() {
            uplinks.push((tun(&device, number, &format!("up{n}"), *address)?, address.octets()));
        }
        let far = tun(&server, number, "far0", SERVER)?;
        server.ip("link set far0 up\nroute add default dev far0")?;
        device.ip("link set up0 up\nroute add default dev up0")?;
        let relay = relay::Relay::start(uplinks, far, profile.up, profile.down, seed)?;
        Ok(Self { relay, device, server })
    }

    /// The device's side.
    #[must_use]
    pub fn device(&self) -> &Namespace {
        &self.device
    }

    /// The server's side.
    #[must_use]
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Changes the profile from now on.
    pub fn change(&self, profile: Profile) {
        self.relay.change(Direction::Up, profile.up, None);
        self.relay.change(Direction::Down, profile.down, None);
    }

    /// Changes the profile from now on, with a seed: equal seeds drop the same packets.
    pub fn begin(&self, profile: Profile, seed: u64) {
        let mut seeds = fastrand::Rng::with_seed(seed);
        self.relay.change(Direction::Up, profile.up, Some(seeds.u64(..)));
        self.relay.change(Direction::Down, profile.down, Some(seeds.u64(..)));
    }

    /// Blocks this traffic from now on.
    pub fn block(&self, block: Block) {
        self.relay.block(block);
    }

    /// The NAT before the device forgets all UDP flows.
    pub fn rebind(&self) {
        self.relay.rebind();
    }

    /// The device's other uplink comes up, and then the one it had goes down, with its address.
    pub fn use_uplink(&self, uplink: usize) -> Result<(), Error> {
        let other = 1 - uplink;
        self.device.ip(&format!("link set up{uplink} up\nroute replace default dev up{uplink}\nlink set up{other} down"))?;
        self.relay.activate(uplink);
        Ok(())
    }

    /// Traffic so far.
    #[must_use]
    pub fn counts(&self, direction: Direction) -> Counts {
        self.relay.counts(direction)
    }
}

/// A TUN device in a namespace, which stays ours when it moves there.
fn tun(namespace: &Namespace, number: u32, name: &str, address: Ipv4Addr) -> Result<SyncDevice, Error> {
    let outside = format!("mo{}x{number}{name}", std::process::id() % 100_000);
    let device = DeviceBuilder::new()
        .name(outside.clone())
        .enable(false)
        .build_sync()
        .map_err(|e| Error::new("no TUN device can be made (is /dev/net/tun there?)", e))?;
    namespace::ip(&format!("link set {outside} netns {} name {name}\n", namespace.name()))?;
    namespace.ip(&format!("addr add {address}/24 dev {name}\nlink set {name} txqueuelen 5000"))?;
    Ok(device)
}
