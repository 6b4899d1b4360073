//! The link to the server: what is known of its losses, what is done about them, how fast it is used.
//!
//! - [`Meter`]: loss, bursts and round-trip time, from QUIC's own statistics.
//! - [`plan`]: how records are repeated; a pure function of what the meter says.
//! - [`Thin`]: congestion control for thin streams; [`Controller`] names the others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

mod meter;
mod networks;
mod observed;
pub mod plan;
mod thin;

pub use meter::{Link, Meter};
pub(crate) use networks::Networks;
pub(crate) use observed::Observed;
pub use thin::{Thin, ThinConfig};

/// Settings of a producer's link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Whether records are repeated in later packets.
    pub redundancy: Redundancy,
    /// Most bytes sent, copies included, over the bytes without them.
    pub budget: f64,
    /// Share of records that may need a retransmission in spite of their copies.
    pub residual: f64,
    /// Whether records may take their compact form ([`motience_proto::wire::compact`]).
    pub compact: bool,
    /// Congestion control.
    pub controller: Controller,
}

impl Default for Settings {
    fn default() -> Self {
        Self { redundancy: Redundancy::Auto, budget: 2.0, residual: 0.001, compact: true, controller: Controller::default() }
    }
}

/// Whether records on the independent lane are repeated in later packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redundancy {
    /// As the measured loss asks for.
    #[default]
    Auto,
    /// Never: on a link where bytes cost money.
    Off,
    /// So many copies, whatever the loss.
    Always(u8),
}

/// The text is no redundancy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redundancy is \"auto\", \"off\" or a number of copies up to 4, not {0:?}")]
pub struct InvalidRedundancy(String);

impl FromStr for Redundancy {
    type Err = InvalidRedundancy;

    fn from_str(text: &str) -> Result<Self, InvalidRedundancy> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            number => match number.parse() {
                Ok(copies) if copies <= plan::MAX_COPIES => Ok(Self::Always(copies)),
                _ => Err(InvalidRedundancy(text.to_owned())),
            },
        }
    }
}

/// Which congestion controller. What was measured about each is in `docs/lossy-links.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// [`Thin`]: delay and lasting loss are signs of congestion, single losses are not.
    #[default]
    Thin,
    /// quinn's BBR.
    Bbr,
    /// CUBIC (RFC 9438): every loss is congestion.
    Cubic,
    /// NewReno (RFC 9002, section 7): every loss is congestion.
    NewReno,
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thin => "thin",
            Self::Bbr => "bbr",
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
        })
    }
}

/// What is known of a link and what was decided, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Share of packets that were lost lately.
    pub loss: f64,
    /// How long losses last that come together, in milliseconds; `None`: they come one by one.
    pub burst_ms: Option<f64>,
    /// Round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Copies that a record is given at present.
    pub copies: u8,
    /// After how many milliseconds the first copy travels in a packet of its own; `None`: it waits for a later record.
    pub own_packet_ms: Option<f64>,
    /// How many milliseconds a copy travels behind the one before it, at least.
    pub spread_ms: f64,
    /// Bytes of frames sent for the first time on this connection.
    pub first_bytes: u64,
    /// Bytes of copies, those of packets made for them included.
    pub copy_bytes: u64,
    /// Copies sent.
    pub copies_sent: u64,
}
