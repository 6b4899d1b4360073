//! Memory for what comes in and cannot be dealt with yet: bodies that are collected, windows of their compression, records whose end has
//! not come. Flow control bounds what a peer sends ahead of what is read; this bounds what was read.
//!
//! A connection, an account and the node have so much each. Whoever has said nothing of who it is counts by its address. Nobody has more
//! than a quarter of what is still free, so that however many take much, whoever comes next finds room (the dynamic threshold of
//! Choudhury and Hahne, 1998).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use motience_proto::model::UserId;
use motience_settings::env::settings;
use parking_lot::Mutex;

use crate::permits::{ClientAddress, give_back_some};

/// Bytes that a part may hold before it is counted: most records and bodies are smaller, and are gone at once.
pub const UNCOUNTED: usize = 1024;
/// The part of what is free that one account may have.
const SHARE_OF_FREE: usize = 4;

settings! {
    /// Bytes that may be held.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Memory of the whole node for what comes in and cannot be dealt with yet: bodies that are collected, windows of their compression,
        /// records whose end has not come. Nobody has more than a quarter of what is free. More is answered 503.
        UPLOAD_MEMORY = "256MiB" => node: usize as Size, > 0;
        /// Likewise of one account, or of one address whose account is not known yet. More is answered 429.
        UPLOAD_MEMORY_PER_ACCOUNT = "64MiB" => account: usize as Size, > 0;
        /// Likewise of one connection. One upload alone may have more.
        UPLOAD_MEMORY_PER_CONNECTION = "8MiB" => connection: usize as Size, > 0;
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The connection holds as much as it may.
    #[error("too much is sent at once on this connection")]
    Connection,
    /// The account or the address does.
    #[error("too much is sent at once by this account")]
    Account,
    /// There is not enough left for anybody.
    #[error("this node takes in too much at once")]
    Node,
}

impl Full {
    /// The label in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Connection => "upload_connection",
            Self::Account => "upload_account",
            Self::Node => "upload_node",
        }
    }
}

/// The memory of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    limits: Limits,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Every count that falls to nothing is removed.
    owners: HashMap<Owner, usize>,
}

/// Account or address that an upload counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Of an account.
    Account(UserId),
    /// Of an account that is not known yet.
    Address(ClientAddress),
}

/// Memory of one connection. Cheap to clone; as an extension of a request, that of its connection.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<AtomicUsize>);

/// One upload: a request's body, or all streams of one producer's session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Upload(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    uploads: Uploads,
    connection: Connection,
    /// Locked within the node's lock.
    own: Mutex<(Owner, usize)>,
}

/// Memory that an upload holds for one purpose; given back when dropped.
#[derive(Debug)]
pub struct Part {
    upload: Upload,
    bytes: usize,
}

impl Uploads {
    /// Nothing held yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, held: Arc::default() }
    }

    /// An upload that holds nothing yet.
    pub fn upload(&self, connection: &Connection, owner: Owner) -> Upload {
        Upload(Arc::new(Shared { uploads: self.clone(), connection: connection.clone(), own: Mutex::new((owner, 0)) }))
    }

    /// Memory held by all.
    pub fn held(&self) -> usize {
        self.held.lock().all
    }

    /// Why so many more bytes of this upload have no room.
    fn refusal(&self, held: &Held, connection: usize, (owner, own): (Owner, usize), more: usize) -> Option<Full> {
        let of_owner = held.owners.get(&owner).copied().unwrap_or_default();
        if connection > own && connection.saturating_add(more) > self.limits.connection {
            Some(Full::Connection)
        } else if of_owner.saturating_add(more) > self.limits.account {
            Some(Full::Account)
        } else if of_owner.saturating_add(more) > self.limits.node.saturating_sub(held.all) / SHARE_OF_FREE {
            Some(Full::Node)
        } else {
            None
        }
    }
}

impl Upload {
    /// Room for one purpose, of which nothing is held yet.
    pub fn part(&self) -> Part {
        Part { upload: self.clone(), bytes: 0 }
    }

    /// Counts it as this account's from now on.
    pub fn is_of(&self, user: UserId) {
        let mut held = self.0.uploads.held.lock();
        let mut own = self.0.own.lock();
        give_back_some(&mut held.owners, &own.0, own.1);
        own.0 = Owner::Account(user);
        if own.1 > 0 {
            *held.owners.entry(own.0).or_default() += own.1;
        }
    }

    fn grow(&self, bytes: usize) -> Result<(), Full> {
        let Shared { uploads, connection, own } = &*self.0;
        let mut held = uploads.held.lock();
        let mut own = own.lock();
        if let Some(full) = uploads.refusal(&held, connection.0.load(Ordering::Relaxed), *own, bytes) {
            metrics::counter!("motience_limited_total", "reason" => full.reason()).increment(1);
            return Err(full);
        }
        own.1 += bytes;
        held.all += bytes;
        *held.owners.entry(own.0).or_default() += bytes;
        connection.0.fetch_add(bytes, Ordering::Relaxed);
        metrics::gauge!("motience_upload_bytes").set(held.all as f64);
        Ok(())
    }

    fn shrink(&self, bytes: usize) {
        let Shared { uploads, connection, own } = &*self.0;
        let mut held = uploads.held.lock();
        let mut own = own.lock();
        own.1 -= bytes;
        held.all -= bytes;
        give_back_some(&mut held.owners, &own.0, bytes);
        connection.0.fetch_sub(bytes, Ordering::Relaxed);
        metrics::gauge!("motience_upload_bytes").set(held.all as f64);
    }
}

impl Part {
    /// Holds so many bytes from now on, or as many as before where there is no room.
    pub fn set(&mut self, bytes: usize) -> Result<(), Full> {
        let bytes = if bytes <= UNCOUNTED { 0 } else { bytes };
        if bytes > self.bytes {
            self.upload.grow(bytes - self.bytes)?;
        } else if bytes < self.bytes {
            self.upload.shrink(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.upload.shrink(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn uploads() -> Uploads {
        Uploads::new(Limits { node: 100 * MIB, account: 15 * MIB, connection: 8 * MIB })
    }

    fn account(number: i64) -> Owner {
        Owner::Account(UserId(number))
    }

    #[test]
    fn a_connection_holds_so_much_and_one_upload_alone_more() {
        let uploads = uploads();
        let connection = Connection::default();
        let mut first = uploads.upload(&connection, account(1)).part();
        first.set(12 * MIB).unwrap();
        let second = uploads.upload(&connection, account(1));
        assert_eq!(second.part().set(MIB), Err(Full::Connection));
        assert_eq!(uploads.upload(&Connection::default(), account(1)).part().set(4 * MIB), Err(Full::Account));
        assert_eq!(uploads.held(), 12 * MIB, "what is refused is not held");
        first.set(7 * MIB).unwrap();
        let mut part = second.part();
        part.set(MIB).unwrap();
        assert_eq!(part.set(2 * MIB), Err(Full::Connection));
        drop((first, part));
        assert!(uploads.held() == 0 && uploads.held.lock().owners.is_empty(), "everything was given back");
    }

    #[test]
    fn whoever_comes_next_finds_room() {
        let uploads = uploads();
        let greedy = |number| {
            let parts = std::iter::repeat_with(|| uploads.upload(&Connection::default(), account(number)).part());
            parts.map_while(|mut part| part.set(MIB / 2).is_ok().then_some(part)).collect::<Vec<_>>()
        };
        let held: Vec<_> = (0..8).map(greedy).collect();
        assert!(held.iter().all(|parts| !parts.is_empty()), "{:?}", held.iter().map(Vec::len).collect::<Vec<_>>());
        assert!(uploads.held() < 100 * MIB);
        let mut late = uploads.upload(&Connection::default(), account(99)).part();
        late.set(2 * MIB).unwrap();
        assert_eq!(late.set(20 * MIB), Err(Full::Account));
        assert_eq!(late.set(14 * MIB), Err(Full::Node));
    }

    #[test]
    fn an_upload_becomes_its_account_s() {
        let uploads = uploads();
        let address = Owner::Address(ClientAddress::of("192.0.2.1".parse().unwrap()));
        let upload = uploads.upload(&Connection::default(), address);
        let mut part = upload.part();
        part.set(10 * MIB).unwrap();
        upload.is_of(UserId(1));
        let other = uploads.upload(&Connection::default(), account(1));
        assert_eq!(other.part().set(6 * MIB), Err(Full::Account));
        uploads.upload(&Connection::default(), address).part().set(6 * MIB).unwrap();
        drop(part);
        assert!(uploads.held.lock().owners.is_empty());
        other.part().set(UNCOUNTED).unwrap();
    }
}
