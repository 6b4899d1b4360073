//! The servers that share the logs among them: one, or the masters of a Redis Cluster.
//!
//! A shard is one server: a connection for commands, one that receives what is published, one that waits for replicas. All keys and the channel
//! of a producer have one hash slot, so whatever concerns a producer is done by the shard that has its slot. A call that comes to the wrong
//! shard has done nothing there, and is made again for the right one, whose epoch is another.
//!
//! The map of the slots is drawn anew whenever a server answers that it has a slot no more, fails, or takes back a channel, and from time to time.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use motience_proto::model::LogEpoch;
use parking_lot::{Mutex, RwLock};
use redis::{Cmd, FromRedisValue, Value};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info};

use super::{
    Config,
    barrier::Barrier,
    cluster,
    follow::Follower,
    home::Home,
    link::{Link, Miss, Session},
    names::{Channel, Names},
    place::Place,
    seal::Seal,
    sentinel::At,
    slots::{Slots, slot_of, tag_of},
};
use crate::{Error, Sink, Topic};

/// Longest time in which a call is sent from one shard to another.
const REDIRECT_LIMIT: Duration = Duration::from_secs(3);
/// Pause before a call is made again where its keys are being moved.
const MOVING_PAUSE: Duration = Duration::from_millis(20);
/// How often the map is drawn anew where nothing calls for it: sooner than a server can be replaced and be the master again, because a
/// connection that lasted through both would still name the epoch before them.
const DRAW_EVERY: Duration = Duration::from_secs(2);
/// Long answers of one server that are under way at once: it does nothing else while it makes one.
const READS_AT_ONCE: usize = 4;
/// Shortest time between two drawings.
const DRAW_PAUSE: Duration = Duration::from_millis(200);

/// One server.
pub(super) struct Shard {
    pub(super) place: Place,
    pub(super) link: Link,
    /// For readers that catch up: their long answers hold up no append.
    reading: Link,
    reads: Semaphore,
    pub(super) follower: Follower,
    pub(super) barrier: Option<Barrier>,
    /// Looks where the server is.
    look: JoinHandle<()>,
}

impl Shard {
    /// Gives up connections that were made when the server was in another epoch.
    pub(super) fn keep_to(&self, log_epoch: LogEpoch) {
        self.link.keep_to(log_epoch);
        self.reading.keep_to(log_epoch);
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.look.abort();
    }
}

/// The shards, and which has what.
pub(super) struct Shards {
    make: Maker,
    /// In a cluster only.
    cluster: bool,
    map: RwLock<Arc<Map>>,
    /// Channels that this node follows.
    followed: Mutex<HashSet<String>>,
    /// Told when the map may be wrong.
    wrong: Arc<Notify>,
    /// Draws the map.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How a shard is made.
struct Maker {
    place: Place,
    names: Names,
    seal: Seal,
    sink: Sink,
    replicas: u32,
    /// Told when a server has no room.
    refused: Arc<Notify>,
    wrong: Arc<Notify>,
}

impl Maker {
    fn shard(&self, place: Place, home: Home) -> Arc<Shard> {
        let link = |purpose| Link::new(place.clone(), &self.names, home.clone(), purpose, Arc::clone(&self.refused));
        let (link, reading) = (link("commands"), link("reads"));
        let barrier = (self.replicas > 0).then(|| Barrier::start(&place, &self.names, home, self.replicas));
        let follower = Follower::start(place.clone(), &self.names, &self.seal, Arc::clone(&self.sink), Arc::clone(&self.wrong));
        let looked = place.clone();
        let look = tokio::spawn(async move { looked.look().await });
        Arc::new(Shard { place, link, reading, reads: Semaphore::new(READS_AT_ONCE), follower, barrier, look })
    }
}

/// Which shard has which slot.
struct Map {
    /// Without a cluster there is one, and no map.
    slots: Option<Slots>,
    shards: HashMap<At, (Arc<Shard>, Home)>,
    one: Option<Arc<Shard>>,
    /// Nodes to ask.
    nodes: Vec<Place>,
}

/// An answer, the shard that gave it, and the session in which it did.
pub(super) struct Answered {
    pub(super) value: Value,
    pub(super) session: Session,
    pub(super) shard: Arc<Shard>,
}

impl Shards {
    /// Finds out whether there is one server or a cluster, and connects.
    pub(super) async fn connect(config: &Config, names: &Names, seal: &Seal, replicas: u32, sink: Sink) -> Result<Arc<Self>, Error> {
        let (place, seeds, cluster) = find(config).await?;
        let wrong = Arc::new(Notify::new());
        let make = Maker {
            place: place.clone(),
            names: names.clone(),
            seal: seal.clone(),
            sink,
            replicas,
            refused: Arc::default(),
            wrong: Arc::clone(&wrong),
        };
        let mut map = Map { slots: None, shards: HashMap::new(), one: None, nodes: seeds };
        if !cluster {
            let home = Home::default();
            home.set(true, |_| None);
            let one = make.shard(place, home);
            one.link.open().await?;
            map.one = Some(one);
        }
        // Readiness counts them; until then none is known to be away.
        metrics::gauge!("motience_redis_shards_away").set(0.0);
        let bus = [Topic::Events, Topic::Reports].map(|topic| names.channel(Channel::Bus(topic)));
        let shards = Arc::new(Self {
            make,
            cluster,
            map: RwLock::new(Arc::new(map)),
            followed: Mutex::new(bus.into()),
            wrong,
            task: Mutex::default(),
        });
        if cluster {
            shards.draw().await?;
            // A node starts where one of them can be used, and finds the others later.
            let mut failure = None;
            for shard in shards.all() {
                match shard.link.open().await {
                    Ok(_) => {
                        failure = None;
                        break;
                    }
                    Err(e @ Error::Newer(_)) => return Err(e),
                    Err(e) => failure = Some(e),
                }
            }
            failure.map_or(Ok(()), Err)?;
            *shards.task.lock() = Some(tokio::spawn(run(Arc::downgrade(&shards), Arc::clone(&shards.wrong))));
        }
        shards.share();
        Ok(shards)
    }

    /// Whether the logs are on several servers.
    pub(super) fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// All shards.
    pub(super) fn all(&self) -> Vec<Arc<Shard>> {
        let map = self.map();
        map.one.iter().chain(map.shards.values().map(|(shard, _)| shard)).cloned().collect()
    }

    /// The shard that has this key or channel.
    pub(super) fn of(&self, key: &str) -> Result<Arc<Shard>, Error> {
        let map = self.map();
        if let Some(one) = &map.one {
            return Ok(Arc::clone(one));
        }
        let at = map.slots.as_ref().and_then(|slots| slots.master(slot_of(key)));
        match at.and_then(|at| map.shards.get(at)) {
            Some((shard, _)) => Ok(Arc::clone(shard)),
            None => {
                self.wrong.notify_one();
                Err(self.make.place.away("no server of the cluster has the slot of this log"))
            }
        }
    }

    /// Tells apart the servers of keys, for as long as the map stays.
    pub(super) fn number(&self, key: &str) -> usize {
        self.of(key).map_or(0, |shard| Arc::as_ptr(&shard).addr())
    }

    /// Told each time that a server refuses something for want of memory.
    pub(super) fn refused(&self) -> Arc<Notify> {
        Arc::clone(&self.make.refused)
    }

    /// Asks the server that has this key or channel, wherever it is by now. The call is made for the session in which it is sent.
    pub(super) async fn query(&self, key: &str, call: impl Fn(&Session) -> Cmd) -> Result<Answered, Error> {
        // On the heap: a future within that of every caller, many levels deep, is more than the compiler follows.
        Box::pin(self.query_on(key, |shard| &shard.link, call)).await
    }

    /// Asks for a long answer, which is read beside the others, and only few at once.
    pub(super) async fn read(&self, key: &str, call: impl Fn(&Session) -> Cmd) -> Result<Answered, Error> {
        let shard = self.of(key)?;
        // Cannot fail: nobody closes it.
        let _turn = shard.reads.acquire().await;
        Box::pin(self.query_on(key, |shard| &shard.reading, call)).await
    }

    async fn query_on(&self, key: &str, link: fn(&Shard) -> &Link, call: impl Fn(&Session) -> Cmd) -> Result<Answered, Error> {
        let mut shard = self.of(key)?;
        let (began, mut asking) = (Instant::now(), false);
        loop {
            let asked = async {
                let link = link(&shard);
                let session = link.session().await?;
                Ok::<_, Miss>((link.send(&session, &call(&session), asking).await?, session))
            };
            let outcome = asked.await;
            let miss = match outcome {
                Ok((value, session)) => return Ok(Answered { value, session, shard }),
                Err(Miss::Failed(e)) => {
                    if self.cluster {
                        self.wrong.notify_one();
                    }
                    return Err(e);
                }
                Err(miss) => miss,
            };
            if began.elapsed() > REDIRECT_LIMIT {
                return Err(shard.place.away("the slot of this log is being moved"));
            }
            asking = false;
            match miss {
                Miss::Moved(slot, at) => {
                    debug!(slot, host = at.0, port = at.1, "a slot is at another server");
                    self.wrong.notify_one();
                    self.give(slot, &at)?;
                    shard = self.of(key)?;
                }
                Miss::Ask(at) => {
                    shard = self.at(&at)?;
                    asking = true;
                }
                Miss::Later | Miss::Failed(_) => {
                    sleep(MOVING_PAUSE).await;
                    shard = self.of(key)?;
                }
            }
            if began.elapsed() > MOVING_PAUSE {
                // Two that send it to each other are not to be kept busy.
                sleep(MOVING_PAUSE).await;
            }
        }
    }

    /// Runs a query whose answer is of a known type.
    pub(super) async fn ask<T: FromRedisValue>(&self, key: &str, call: &Cmd) -> Result<T, Error> {
        let answered = self.query(key, |_| call.clone()).await?;
        T::from_redis_value(answered.value).map_err(|e| answered.shard.place.judge(&e.into()))
    }

    /// Returns when Redis sends this channel's messages, or has refused to.
    pub(super) async fn follow(&self, channel: String) -> Result<(), Error> {
        self.followed.lock().insert(channel.clone());
        while !self.of(&channel)?.follower.follow(&channel).await? {}
        Ok(())
    }

    pub(super) fn unfollow(&self, channel: &str) {
        self.followed.lock().remove(channel);
        if let Ok(shard) = self.of(channel) {
            shard.follower.unfollow(channel);
        }
    }

    /// How long nothing has come from any server.
    pub(super) fn silent_for(&self) -> Duration {
        self.all().iter().map(|shard| shard.follower.silent_for()).min().unwrap_or(Duration::ZERO)
    }

    /// Whether a server had no memory for the last thing that needed some.
    pub(super) fn is_full(&self) -> bool {
        self.all().iter().any(|shard| shard.link.is_full())
    }

    pub(super) async fn close(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
        }
        for shard in self.all() {
            shard.follower.close().await;
            if let Some(barrier) = &shard.barrier {
                barrier.close().await;
            }
        }
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read())
    }

    /// The shard at this place, which may have no slot yet.
    fn at(&self, at: &At) -> Result<Arc<Shard>, Error> {
        if let Some((shard, _)) = self.map().shards.get(at) {
            return Ok(Arc::clone(shard));
        }
        let mut map = self.map.write();
        let mut changed = Map { slots: map.slots.clone(), shards: map.shards.clone(), one: None, nodes: map.nodes.clone() };
        let (shard, _) = changed.shards.entry(at.clone()).or_insert(self.made(at)?);
        let shard = Arc::clone(shard);
        *map = Arc::new(changed);
        Ok(shard)
    }

    fn made(&self, at: &At) -> Result<(Arc<Shard>, Home), Error> {
        let home = Home::default();
        Ok((self.make.shard(self.make.place.at(at)?, home.clone()), home))
    }

    /// A server has said that this slot is elsewhere.
    fn give(&self, slot: u16, at: &At) -> Result<(), Error> {
        let Some(mut slots) = self.map().slots.clone() else { return Ok(()) };
        slots.give(slot, at.clone());
        self.change(slots, None)
    }

    /// Asks the nodes for the map.
    async fn draw(&self) -> Result<(), Error> {
        let nodes = self.map().nodes.clone();
        let told = cluster::ask(&nodes).await.map_err(|e| self.make.place.unavailable(&e))?;
        self.change(told.slots, Some(told.nodes))
    }

    /// Takes a map for the present one. Shards without slots are let go, and channels go to the shards that have them now.
    fn change(&self, slots: Slots, nodes: Option<BTreeSet<At>>) -> Result<(), Error> {
        {
            let mut map = self.map.write();
            let layout = slot_of(&self.make.names.shared("layout"));
            let mut shards = HashMap::new();
            for (at, lowest) in slots.masters() {
                let (shard, home) = match map.shards.get(&at) {
                    Some(there) => there.clone(),
                    None => self.made(&at)?,
                };
                let own = |tag: &String| slots.master(slot_of(tag)) == Some(&at);
                home.set(slots.master(layout) == Some(&at), |tag| tag.filter(own).or_else(|| Some(tag_of(lowest))));
                shards.insert(at, (shard, home));
            }
            let changed = map.slots.as_ref() != Some(&slots);
            // Nodes that were given at the start are asked as long as no others are known.
            let nodes = match nodes {
                Some(nodes) if !nodes.is_empty() => nodes.iter().map(|at| self.make.place.at(at)).collect::<Result<Vec<Place>, _>>()?,
                _ => map.nodes.clone(),
            };
            if changed {
                info!(servers = shards.len(), "the slots of the cluster are placed");
            }
            *map = Arc::new(Map { slots: Some(slots), shards, one: None, nodes });
        }
        self.share();
        Ok(())
    }

    /// Has each shard send the channels that belong to it.
    fn share(&self) {
        let mut shares: Vec<(Arc<Shard>, HashSet<String>)> = self.all().into_iter().map(|shard| (shard, HashSet::new())).collect();
        let followed = self.followed.lock();
        for channel in followed.iter() {
            if let Ok(owner) = self.of(channel)
                && let Some((_, share)) = shares.iter_mut().find(|(shard, _)| Arc::ptr_eq(shard, &owner))
            {
                share.insert(channel.clone());
            }
        }
        for (shard, share) in shares {
            shard.follower.want(share);
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
    }
}

/// Draws the map, as long as there are shards.
async fn run(shards: Weak<Shards>, wrong: Arc<Notify>) {
    loop {
        let _ = timeout(DRAW_EVERY, wrong.notified()).await;
        {
            let Some(shards) = shards.upgrade() else { return };
            if let Err(e) = shards.draw().await {
                debug!(error = %e, "the nodes of the cluster do not say which has what; asking again");
            }
        }
        sleep(DRAW_PAUSE).await;
    }
}

/// The place of the server, or of a node of the cluster, all places that are given, and whether it is a cluster.
async fn find(config: &Config) -> Result<(Place, Vec<Place>, bool), Error> {
    let places = Place::all(config)?;
    let mut failure = None;
    for place in &places {
        match place.connect(None).await {
            Ok(connected) if connected.server.is_cluster() => return Ok((place.clone(), places, true)),
            Ok(_) if places.len() == 1 => return Ok((place.clone(), places, false)),
            Ok(_) => failure = Some(place.away("it is no node of a Redis Cluster: name one server, or nodes of a cluster")),
            Err(e) => failure = Some(e),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Unavailable("no address of Redis is given".to_owned())))
}

/// Whether Redis answers, and is one that a node takes; changes nothing in it.
pub(super) async fn probe(config: &Config) -> Result<(), Error> {
    find(config).await.map(drop)
}
