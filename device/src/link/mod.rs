//! The link to the server: its measured losses, the redundancy against them, and congestion control.
//!
//! - [`Meter`]: loss, bursts and round-trip time, from QUIC's own statistics.
//! - [`plan`]: how records are repeated; a pure function of what the meter says.
//! - [`DelayGatedNewReno`]: congestion control that ignores single losses; [`Controller`] names the others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

mod delay_gated;
mod meter;
mod networks;
mod observed;
pub mod plan;

pub use delay_gated::{DelayGatedConfig, DelayGatedNewReno};
pub use meter::{Link, Meter};
pub(crate) use networks::Networks;
pub(crate) use observed::Observed;

/// Settings of a producer's link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Whether records are repeated in later packets.
    pub redundancy: Redundancy,
    /// Most bytes sent, redundant transmissions included, over the bytes without them. Packets smaller than [`plan::SMALL`] count as so many.
    pub budget: f64,
    /// Share of records that may need a retransmission in spite of redundancy.
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
    /// A fixed number of redundant transmissions, whatever the loss.
    Always(u8),
}

/// The text is no redundancy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redundancy is \"auto\", \"off\" or a number of redundant transmissions up to 4, not {0:?}")]
pub struct InvalidRedundancy(String);

impl FromStr for Redundancy {
    type Err = InvalidRedundancy;

    fn from_str(text: &str) -> Result<Self, InvalidRedundancy> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            number => match number.parse() {
                Ok(redundancy) if redundancy <= plan::MAX_REDUNDANCY => Ok(Self::Always(redundancy)),
                _ => Err(InvalidRedundancy(text.to_owned())),
            },
        }
    }
}

/// Which congestion controller. Measurements of each are in `docs/lossy-links.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// [`DelayGatedNewReno`]: delay and lasting loss are signs of congestion, single losses are not.
    #[default]
    #[serde(rename = "delay-gated", alias = "thin")]
    DelayGated,
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
            Self::DelayGated => "delay-gated",
            Self::Bbr => "bbr",
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
        })
    }
}

/// Measured losses of a link and the redundancy against them, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Share of packets that were lost lately.
    pub loss: f64,
    /// How long losses last that come together, in milliseconds; `None`: they come one by one.
    pub burst_ms: Option<f64>,
    /// Round-trip time, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Redundant transmissions of each record at present.
    pub redundancy: u8,
    /// Milliseconds from a record to its standalone redundant transmission; `None`: it is piggybacked on a later record.
    pub standalone_after_ms: Option<f64>,
    /// Least milliseconds between two redundant transmissions of a record.
    pub spread_ms: f64,
    /// Bytes of frames sent for the first time on this connection.
    pub first_bytes: u64,
    /// Bytes of redundant transmissions, those of packets made for them included.
    pub redundant_bytes: u64,
    /// Redundant transmissions sent.
    pub redundant_sent: u64,
}
