//! Impairment of packets by a link, for each direction by itself.

use std::time::Duration;

use serde::Serialize;

/// How packets get lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub enum Loss {
    /// None is.
    #[default]
    None,
    /// Each by itself, with this probability.
    Random(f64),
    /// In bursts.
    Bursts(Bursts),
}

/// Gilbert-Elliott in time instead of packets, so that thin and thick flows meet the same bursts: the link is
/// good or bad, and stays so for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bursts {
    /// Share of the time that the link is bad, 0 to 1.
    pub share: f64,
    /// How long it is bad at a time.
    pub length: Duration,
    /// Whether each bad time is as long as that; otherwise it is so on average, exponentially distributed.
    pub fixed: bool,
    /// Probability that a packet is lost while the link is bad.
    pub bad: f64,
    /// Probability that a packet is lost while the link is good.
    pub good: f64,
}

impl Bursts {
    /// Everything is lost for `length` at a time, `share` of the time.
    #[must_use]
    pub fn blackouts(share: f64, length: Duration) -> Self {
        Self { share, length, fixed: true, bad: 1.0, good: 0.0 }
    }
}

/// Times in which nothing gets through, at random.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outages {
    /// Mean time from the end of one to the start of the next.
    pub every: Duration,
    /// How long each is.
    pub length: Duration,
    /// Packets are held and delivered at its end, as a mobile network does at a handover; otherwise they are lost.
    pub held: bool,
}

/// A link that sends no faster than this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Bits a second.
    pub bits: u64,
    /// Bytes that may wait; what comes on top is dropped (drop-tail).
    pub queue: u64,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Impairment {
    /// How long a packet is under way at least.
    pub delay: Duration,
    /// Mean of what is added to that, exponentially distributed and at most eight times as much. Packets stay in order.
    pub jitter: Duration,
    /// Loss.
    pub loss: Loss,
    /// Outages.
    pub outages: Option<Outages>,
    /// Share of the packets that are overtaken by others, 0 to 1.
    pub reordered: f64,
    /// Share of the packets that arrive twice, 0 to 1.
    pub doubled: f64,
    /// The bottleneck.
    pub rate: Option<Rate>,
    /// Larger IP packets vanish without a word, as in a black hole.
    pub mtu: Option<u16>,
}

impl Impairment {
    /// Nothing but delay.
    #[must_use]
    pub fn calm(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// This impairment with another loss.
    #[must_use]
    pub fn losing(self, loss: Loss) -> Self {
        Self { loss, ..self }
    }
}

/// Both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Profile {
    /// From the device to the server.
    pub up: Impairment,
    /// From the server to the device.
    pub down: Impairment,
}

impl Profile {
    /// A link with one impairment for both directions.
    #[must_use]
    pub fn both(impairment: Impairment) -> Self {
        Self { up: impairment, down: impairment }
    }
}
