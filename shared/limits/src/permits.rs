//! Permits: the right to hold one connection. A node has one limiter for all transports, so that neither one account, nor one
//! address, nor those who have yet to say who they are can take the room of everybody else.
//!
//! A connection that has not said who it is holds a place in a small pool of its own, of which one address has a share. When it
//! says its name the place goes back, and it holds one among its account's and one in the room of its transport.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    ptr,
    sync::{Arc, Weak},
};

use motience_proto::model::{PlanLimits, Transport, UserId};
use motience_settings::env::settings;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::quota::{Holder, Quotas};

settings! {
    /// How many connections there may be. Whatever these say, one account has no more than half of a transport's room.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Connections of one account at once: WebSocket, streams down and up, WebTransport and native consumers together. Whatever this
        /// and the next say, one account has no more than half of what a transport has room for.
        MAX_CONNECTIONS_PER_ACCOUNT = "50" => connections_each: usize, > 0;
        /// Devices of one account at once, over QUIC and in the tunnel.
        MAX_DEVICES_PER_ACCOUNT = "10000" => devices_each: usize, > 0;
        /// Connections that have yet to say who they are: QUIC before its Hello, tunnels, WebTransport sessions.
        MAX_UNAUTHENTICATED = "2048" => unauthenticated: usize, > 0;
        /// Those of one address: an IPv4 address, or an IPv6 /64.
        MAX_UNAUTHENTICATED_PER_ADDRESS = "128" => unauthenticated_each: usize, > 0;
        /// WebSocket connections at once, tunnels among them.
        WSS_MAX_CONNECTIONS = "20000" => websocket: usize, > 0;
        /// Streams over HTTP at once, down and up.
        STREAM_MAX_CONNECTIONS = "20000" => streams: usize, > 0;
        /// WebTransport sessions at once.
        WT_MAX_SESSIONS = "10000" => webtransport: usize, > 0;
        /// QUIC connections at once, beside those that have yet to say who they are; at most half of them HTTP/3. More are refused.
        QUIC_MAX_CONNECTIONS = "50000" => quic: usize, > 0;
        /// HTTP/3 connections of one address.
        HTTP3_MAX_CONNECTIONS_PER_ADDRESS = "256" => http3_each: usize, > 0;
    }
}

impl Limits {
    fn room(&self, transport: Transport) -> usize {
        match Room::of(transport) {
            Room::WebSocket => self.websocket,
            Room::Streams => self.streams,
            Room::WebTransport => self.webtransport,
            Room::Quic => self.quic,
        }
    }

    fn of_account(&self, share: Share, transport: Transport) -> usize {
        let each = match share {
            Share::Connections => self.connections_each,
            Share::Devices => self.devices_each,
        };
        each.min((self.room(transport) / 2).max(1))
    }
}

/// Under which of an account's two limits a connection falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// A fleet's.
    Devices,
    /// Everything else's.
    Connections,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The transport has no room left.
    #[error("this node has no room for another connection")]
    Node,
    /// The account holds as many as it may.
    #[error("too many connections of this account")]
    Account,
    /// Too many have yet to say who they are.
    #[error("too many connections that have not said who they are")]
    Unauthenticated,
    /// Too many come from this address.
    #[error("too many connections from this address")]
    Address,
}

impl Refusal {
    /// The label in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Account => "account",
            Self::Unauthenticated => "unauthenticated",
            Self::Address => "address",
        }
    }
}

/// The limiter of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Permits {
    limits: Limits,
    held: Arc<Mutex<Held>>,
    quotas: Quotas,
}

/// Permits in use. Every count that falls to zero is removed.
#[derive(Debug, Default)]
struct Held {
    rooms: HashMap<Room, usize>,
    accounts: HashMap<(UserId, Share), usize>,
    /// Of organisations that have a plan, by id.
    organisations: HashMap<(Arc<str>, Share), usize>,
    unauthenticated: usize,
    addresses: HashMap<ClientAddress, usize>,
    http3: usize,
    http3_addresses: HashMap<ClientAddress, usize>,
    /// Connections that receive by a grant which limits them.
    grants: HashMap<i64, Places>,
}

/// Places of a grant that limits its connections.
#[derive(Debug, Default)]
struct Places {
    taken: usize,
    /// Connections that found none, told when one becomes free.
    waiting: Vec<Weak<Notify>>,
}

/// The right of one connection to receive by a grant that limits how many do; given back when dropped.
#[derive(Debug)]
pub struct GrantPermit {
    permits: Permits,
    subscription: i64,
}

/// The right to hold one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Permits,
    transport: Transport,
    address: Option<ClientAddress>,
    scope: Scope,
    /// The organisation that it counts for too.
    organisation: Option<Arc<str>>,
}

/// Limit that a connection counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Unauthenticated,
    Account(UserId, Share),
    Http3,
}

/// Transports that share their room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Room {
    WebSocket,
    Streams,
    WebTransport,
    Quic,
}

impl Room {
    fn of(transport: Transport) -> Self {
        match transport {
            Transport::WebSocket | Transport::Tunnel => Self::WebSocket,
            Transport::Http => Self::Streams,
            Transport::WebTransport => Self::WebTransport,
            Transport::Quic => Self::Quic,
        }
    }
}

/// The client that a limit counts: an IPv4 address, or an IPv6 /64, which one subscriber has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// The client at this address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()),
            v4 @ IpAddr::V4(_) => Self(v4),
        }
    }

    /// The address; of IPv6 the /64.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Permits {
    /// Nothing held yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, held: Arc::default(), quotas: Quotas::default() }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The quotas that plans set.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// A permit for a connection that has said who it is.
    pub fn account(&self, user: UserId, share: Share, transport: Transport) -> Result<Permit, Refusal> {
        let organisation = self.enter(&mut self.held(), user, share, transport)?;
        Ok(Permit { permits: self.clone(), transport, address: None, scope: Scope::Account(user, share), organisation })
    }

    /// A permit for one that has yet to say who it is; it does with [`Permit::identify`].
    pub fn unauthenticated(&self, address: ClientAddress, transport: Transport) -> Result<Permit, Refusal> {
        let mut held = self.held();
        let refusal = if held.unauthenticated >= self.limits.unauthenticated {
            Some(Refusal::Unauthenticated)
        } else if held.addresses.get(&address).is_some_and(|&count| count >= self.limits.unauthenticated_each) {
            Some(Refusal::Address)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err(counted(refusal, transport));
        }
        held.unauthenticated += 1;
        *held.addresses.entry(address).or_default() += 1;
        drop(held);
        metrics::gauge!("motience_unauthenticated_connections").increment(1);
        Ok(Permit { permits: self.clone(), transport, address: Some(address), scope: Scope::Unauthenticated, organisation: None })
    }

    /// Whether so many are unauthenticated, in all or from this address, that the next one should prove its address first:
    /// otherwise whoever invents addresses could use up theirs.
    pub fn is_crowded(&self, address: ClientAddress) -> bool {
        let held = self.held();
        let of_address = held.addresses.get(&address).copied().unwrap_or_default();
        held.unauthenticated >= self.limits.unauthenticated / 2 || of_address >= self.limits.unauthenticated_each / 2
    }

    /// A permit to receive by the grant of a subscription, which `most` connections may hold at once. Where there is none, `waiting` is told once
    /// one is given back.
    pub fn grant(&self, subscription: i64, most: u32, waiting: &Arc<Notify>) -> Result<GrantPermit, Refusal> {
        let mut held = self.held();
        let places = held.grants.entry(subscription).or_default();
        if places.taken >= most as usize {
            places.waiting.retain(|other| other.strong_count() > 0 && !ptr::eq(other.as_ptr(), Arc::as_ptr(waiting)));
            places.waiting.push(Arc::downgrade(waiting));
            return Err(Refusal::Account);
        }
        places.taken += 1;
        Ok(GrantPermit { permits: self.clone(), subscription })
    }

    /// Whether a transport has room for one more.
    pub fn has_room(&self, transport: Transport) -> bool {
        self.held().count(Room::of(transport)) < self.limits.room(transport)
    }

    /// Connections of each organisation with a plan, without those of devices.
    pub fn connections_of_organisations(&self) -> Vec<(Arc<str>, usize)> {
        let held = self.held();
        let connections = held.organisations.iter().filter(|((_, share), _)| *share == Share::Connections);
        connections.map(|((id, _), count)| (Arc::clone(id), *count)).collect()
    }

    /// Counts one more of an account, and of its organisation where that has a plan, which is returned.
    fn enter(&self, held: &mut Held, user: UserId, share: Share, transport: Transport) -> Result<Option<Arc<str>>, Refusal> {
        let plans = self.quotas.plans(user);
        let most = |plan: &PlanLimits| match share {
            Share::Devices => plan.devices,
            Share::Connections => plan.connections,
        };
        let mut each = self.limits.of_account(share, transport);
        let mut organisation = None;
        for (holder, plan) in plans {
            let most = most(&plan).map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
            match holder {
                Holder::Account(_) => each = each.min(most),
                Holder::Organisation(id) => organisation = Some((id, most)),
            }
        }
        let of_organisation = |id: &Arc<str>| held.organisations.get(&(Arc::clone(id), share)).copied().unwrap_or_default();
        if organisation.as_ref().is_some_and(|(id, most)| of_organisation(id) >= *most) {
            return Err(counted(Refusal::Account, transport));
        }
        held.enter(user, share, transport, each, &self.limits).map_err(|refusal| counted(refusal, transport))?;
        let organisation = organisation.map(|(id, _)| id);
        if let Some(id) = &organisation {
            *held.organisations.entry((Arc::clone(id), share)).or_default() += 1;
        }
        Ok(organisation)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

impl Permit {
    /// Counts the connection as this account's from now on.
    pub fn identify(&mut self, user: UserId, share: Share) -> Result<(), Refusal> {
        let permits = self.permits.clone();
        let mut held = permits.held();
        let organisation = permits.enter(&mut held, user, share, self.transport)?;
        self.leave(&mut held);
        self.scope = Scope::Account(user, share);
        self.organisation = organisation;
        Ok(())
    }

    /// Transport of the connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Address that it counted for before it said who it is.
    pub fn address(&self) -> Option<IpAddr> {
        self.address.map(ClientAddress::ip)
    }

    /// Whether it has said who it is.
    pub fn is_identified(&self) -> bool {
        matches!(self.scope, Scope::Account(..))
    }

    /// Counts a QUIC connection as one that speaks HTTP/3, whose requests each say who sends them.
    pub fn speaks_http3(&mut self) -> Result<(), Refusal> {
        let limits = self.permits.limits;
        let mut held = self.permits.held();
        let of_address = self.address.and_then(|address| held.http3_addresses.get(&address)).copied().unwrap_or_default();
        let refusal = if held.http3 >= (limits.quic / 2).max(1) || held.count(Room::Quic) >= limits.quic {
            Some(Refusal::Node)
        } else if of_address >= limits.http3_each {
            Some(Refusal::Address)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err(counted(refusal, self.transport));
        }
        held.http3 += 1;
        *held.rooms.entry(Room::Quic).or_default() += 1;
        if let Some(address) = self.address {
            *held.http3_addresses.entry(address).or_default() += 1;
        }
        held.leave(self.scope, self.transport, self.address);
        self.scope = Scope::Http3;
        Ok(())
    }

    fn leave(&mut self, held: &mut Held) {
        held.leave(self.scope, self.transport, self.address);
        if let (Some(id), Scope::Account(_, share)) = (self.organisation.take(), self.scope) {
            give_back(&mut held.organisations, Some((id, share)));
        }
    }
}

impl Drop for GrantPermit {
    fn drop(&mut self) {
        let mut held = self.permits.held();
        let Some(places) = held.grants.get_mut(&self.subscription) else { return };
        places.taken -= 1;
        places.waiting.drain(..).filter_map(|waiting| waiting.upgrade()).for_each(|waiting| waiting.notify_one());
        if places.taken == 0 {
            held.grants.remove(&self.subscription);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let permits = self.permits.clone();
        self.leave(&mut permits.held());
    }
}

impl Held {
    fn count(&self, room: Room) -> usize {
        self.rooms.get(&room).copied().unwrap_or_default()
    }

    fn enter(&mut self, user: UserId, share: Share, transport: Transport, most: usize, limits: &Limits) -> Result<(), Refusal> {
        let room = Room::of(transport);
        if self.count(room) >= limits.room(transport) {
            return Err(Refusal::Node);
        }
        let each = self.accounts.get(&(user, share)).copied().unwrap_or_default();
        if each >= most {
            return Err(Refusal::Account);
        }
        *self.accounts.entry((user, share)).or_default() += 1;
        *self.rooms.entry(room).or_default() += 1;
        Ok(())
    }

    fn leave(&mut self, scope: Scope, transport: Transport, address: Option<ClientAddress>) {
        match scope {
            Scope::Unauthenticated => {
                self.unauthenticated -= 1;
                metrics::gauge!("motience_unauthenticated_connections").decrement(1);
                give_back(&mut self.addresses, address);
            }
            Scope::Account(user, share) => {
                give_back(&mut self.rooms, Some(Room::of(transport)));
                give_back(&mut self.accounts, Some((user, share)));
            }
            Scope::Http3 => {
                self.http3 -= 1;
                give_back(&mut self.rooms, Some(Room::Quic));
                give_back(&mut self.http3_addresses, address);
            }
        }
    }
}

/// Counts one less of `key`; a count that falls to nothing is removed.
pub fn give_back<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: Option<K>) {
    if let Some(key) = key {
        give_back_some(counts, &key, 1);
    }
}

/// Counts so many less of `key`; a count that falls to nothing is removed.
pub fn give_back_some<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K, number: usize) {
    if let Some(count) = counts.get_mut(key) {
        *count -= number;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn counted(refusal: Refusal, transport: Transport) -> Refusal {
    metrics::counter!("motience_permits_refused_total", "reason" => refusal.reason(), "transport" => transport.as_str()).increment(1);
    refusal
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const HERE: ClientAddress = ClientAddress(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn permits(change: impl FnOnce(&mut Limits)) -> Permits {
        let mut limits = Limits::default();
        change(&mut limits);
        Permits::new(limits)
    }

    #[test]
    fn one_limit_of_an_account_holds_over_all_transports() {
        let permits = permits(|limits| (limits.connections_each, limits.devices_each) = (4, 3));
        let take = |user, share, transport| permits.account(UserId(user), share, transport);
        let (connections, devices) = (Share::Connections, Share::Devices);
        let mut held: Vec<Permit> = [Transport::WebSocket, Transport::Http, Transport::WebTransport, Transport::Quic]
            .map(|transport| take(1, connections, transport).unwrap())
            .into();
        for transport in [Transport::WebSocket, Transport::Http, Transport::WebTransport, Transport::Quic] {
            assert_eq!(take(1, connections, transport).unwrap_err(), Refusal::Account, "{transport:?}");
        }
        held.push(take(2, connections, Transport::WebSocket).unwrap());
        let fleet = [Transport::Quic, Transport::Tunnel, Transport::Quic].map(|transport| take(1, devices, transport).unwrap());
        assert_eq!(take(1, devices, Transport::Tunnel).unwrap_err(), Refusal::Account);
        drop((held, fleet));
        assert!(permits.held().accounts.is_empty() && permits.held().rooms.is_empty(), "everything was given back");
    }

    #[test]
    fn a_grant_limits_its_own_connections() {
        let permits = permits(|_| {});
        let waiting = Arc::new(Notify::new());
        let take = |subscription, most| permits.grant(subscription, most, &waiting);
        let held = [take(7, 2).unwrap(), take(7, 2).unwrap(), take(8, 1).unwrap()];
        for _ in 0..2 {
            assert_eq!(take(7, 2).unwrap_err(), Refusal::Account);
        }
        assert_eq!(permits.held().grants[&7].waiting.len(), 1);
        assert!(waiting.notified().now_or_never().is_none(), "nothing is free");
        assert!(take(7, 3).is_ok(), "the limit was raised");
        assert!(waiting.notified().now_or_never().is_some());
        drop(held);
        assert!(permits.held().grants.is_empty());
    }

    #[test]
    fn no_account_takes_a_whole_transport() {
        let permits = permits(|limits| (limits.quic, limits.websocket) = (60, 20));
        let fleet = |user, transport| std::iter::repeat_with(move || (user, transport));
        let take = |(user, transport)| permits.account(UserId(user), Share::Devices, transport).ok();
        let first: Vec<Permit> = fleet(1, Transport::Quic).map_while(take).collect();
        let second: Vec<Permit> = fleet(2, Transport::Quic).map_while(take).collect();
        assert_eq!((first.len(), second.len()), (30, 30));
        assert!(!permits.has_room(Transport::Quic));
        let third: Vec<Permit> = fleet(3, Transport::Tunnel).map_while(take).take(30).collect();
        assert_eq!(third.len(), 10);
    }

    #[test]
    fn those_without_a_name_take_nobodys_room() {
        let permits = permits(|limits| {
            (limits.unauthenticated, limits.unauthenticated_each, limits.websocket) = (5, 3, 4);
        });
        let come = |address: &str| permits.unauthenticated(ClientAddress::of(address.parse().unwrap()), Transport::Tunnel);
        assert!(!permits.is_crowded(HERE));
        let mut silent: Vec<Permit> = (0..3).map(|_| come("127.0.0.1").unwrap()).collect();
        assert_eq!(come("::ffff:127.0.0.1").unwrap_err(), Refusal::Address);
        assert!(permits.is_crowded(HERE));
        // Addresses of one IPv6 network are one subscriber's.
        silent.push(come("2001:db8::1").unwrap());
        silent.push(come("2001:db8::ffff:2").unwrap());
        assert_eq!(come("2001:db8:0:1::1").unwrap_err(), Refusal::Unauthenticated);
        assert!(permits.account(UserId(1), Share::Connections, Transport::WebSocket).is_ok());
        // Whoever says its name leaves the pool, and cannot where its account is full.
        let mut named = silent.pop().unwrap();
        named.identify(UserId(1), Share::Devices).unwrap();
        let mut another = come("10.0.0.1").unwrap();
        let _second = permits.account(UserId(1), Share::Devices, Transport::Tunnel).unwrap();
        assert_eq!(another.identify(UserId(1), Share::Devices).unwrap_err(), Refusal::Account);
        drop((silent, named, another));
        let held = permits.held();
        assert_eq!((held.unauthenticated, held.addresses.len()), (0, 0));
    }

    #[test]
    fn http3_leaves_room_for_devices_and_for_other_addresses() {
        let permits = permits(|limits| (limits.quic, limits.http3_each) = (8, 3));
        let come = |address: &str| {
            let mut permit = permits.unauthenticated(ClientAddress::of(address.parse().unwrap()), Transport::Quic).unwrap();
            permit.speaks_http3().map(|()| permit)
        };
        let held = [come("10.0.0.1").unwrap(), come("10.0.0.1").unwrap(), come("10.0.0.1").unwrap()];
        assert_eq!(come("10.0.0.1").unwrap_err(), Refusal::Address);
        let other = come("10.0.0.2").unwrap();
        assert_eq!(come("10.0.0.3").unwrap_err(), Refusal::Node);
        assert!(permits.account(UserId(1), Share::Devices, Transport::Quic).is_ok());
        drop((held, other));
        assert!(come("10.0.0.3").is_ok());
        assert!(permits.held().rooms.is_empty() && permits.held().http3_addresses.is_empty());
    }
}
