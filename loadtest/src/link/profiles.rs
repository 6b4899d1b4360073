//! Links as they are met outside, each with where its numbers come from. They are rounded: a profile is a typical member
//! of its kind and not a trace of one place.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::impairment::{Bursts, Impairment, Loss, Outages, Profile, Rate};

/// A link as it is met outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// 25 ms each way and nothing else: what all comparisons start from.
    Clean,
    /// A device that stands still in a 4G network.
    ///
    /// RTT 40 to 60 ms, 10 to 40 Mbit/s down and a third of it up, little loss above the link layer, for HARQ and RLC hide it
    /// as jitter: Huang et al., "A Close Examination of Performance and Power Characteristics of 4G LTE Networks", MobiSys 2012,
    /// and "An In-depth Study of LTE", SIGCOMM 2013. Queues of hundreds of milliseconds: Jiang et al., "Tackling Bufferbloat in
    /// 3G/4G Networks", IMC 2012.
    Lte,
    /// A device in a moving vehicle in a 4G network.
    ///
    /// Handovers interrupt for 30 to 60 ms and packets are forwarded (3GPP TR 36.881: about 50 ms); some fail and lose
    /// what is under way: Xiao et al., "TCP Performance over Mobile Networks in High-speed Mobility Scenarios", ICNP 2014.
    LteMoving,
    /// Starlink and its like.
    ///
    /// RTT 40 to 50 ms, around 100 Mbit/s down and 10 up, about 1 % loss in bursts, and a reconfiguration each 15 s:
    /// Michel et al., "A First Look at Starlink Performance", IMC 2022; Mohan et al., "A Multifaceted Look at Starlink
    /// Performance", WWW 2024.
    SatelliteLeo,
    /// A geostationary satellite.
    ///
    /// About 600 ms RTT, 20 Mbit/s down and 2 up, some per mille of loss: RFC 2488; measured by Deutschmann
    /// et al., "Satellite Internet Performance Measurements", NetSys 2019.
    SatelliteGeo,
    /// A LoRa gateway behind a narrow-band backhaul (NB-IoT).
    ///
    /// 20 to 60 kbit/s and RTTs of 0.5 s and more, varying much: 3GPP TR 45.820; Feltrin et al., "Narrowband IoT: A Survey
    /// on Downlink and Uplink Perspectives", IEEE Wireless Communications 2019; loss of the radio side: Adelantado et al.,
    /// "Understanding the Limits of LoRaWAN", IEEE Communications Magazine 2017.
    LoraBackhaul,
    /// A full wireless network in a factory hall or a fair.
    ///
    /// Contention makes jitter of tens of milliseconds and loss in bursts of some per cent: Sui et al., "Characterizing and
    /// Improving WiFi Latency in Large-Scale Operational Networks", MobiSys 2016; bursts as in Haßlinger and Hohlfeld,
    /// "The Gilbert-Elliott Model for Packet Loss in Real Time Services on the Internet", MMB 2008.
    WifiCongested,
}

impl Name {
    /// Impairments of the link.
    #[must_use]
    pub fn profile(self) -> Profile {
        match self {
            Self::Clean => Profile::both(Impairment::calm(ms(25))),
            Self::Lte => Profile { up: lte(mbit(10, 300)), down: lte(mbit(30, 300)) },
            Self::LteMoving => {
                let moving = |rate| Impairment {
                    jitter: ms(6),
                    loss: Loss::Bursts(Bursts { share: 0.01, length: ms(60), fixed: false, bad: 0.8, good: 0.001 }),
                    outages: Some(Outages { every: Duration::from_secs(12), length: ms(50), held: true }),
                    ..lte(rate)
                };
                Profile { up: moving(mbit(4, 400)), down: moving(mbit(12, 400)) }
            }
            Self::SatelliteLeo => {
                let leo = |rate| Impairment {
                    jitter: ms(4),
                    loss: Loss::Bursts(Bursts { share: 0.01, length: ms(30), fixed: false, bad: 0.7, good: 0.002 }),
                    outages: Some(Outages { every: Duration::from_secs(15), length: ms(80), held: false }),
                    rate: Some(rate),
                    ..Impairment::calm(ms(20))
                };
                Profile { up: leo(mbit(10, 100)), down: leo(mbit(100, 100)) }
            }
            Self::SatelliteGeo => {
                let geo = |rate| Impairment { jitter: ms(8), loss: Loss::Random(0.003), rate: Some(rate), ..Impairment::calm(ms(295)) };
                Profile { up: geo(mbit(2, 600)), down: geo(mbit(20, 600)) }
            }
            Self::LoraBackhaul => {
                let narrow = |bits| Impairment {
                    jitter: ms(80),
                    loss: Loss::Random(0.02),
                    rate: Some(Rate { bits, queue: 16 * 1024 }),
                    ..Impairment::calm(ms(250))
                };
                Profile { up: narrow(50_000), down: narrow(25_000) }
            }
            Self::WifiCongested => Profile::both(Impairment {
                jitter: ms(12),
                loss: Loss::Bursts(Bursts { share: 0.04, length: ms(25), fixed: false, bad: 0.7, good: 0.005 }),
                reordered: 0.002,
                doubled: 0.0005,
                rate: Some(mbit(8, 150)),
                ..Impairment::calm(ms(4))
            }),
        }
    }
}

fn lte(rate: Rate) -> Impairment {
    Impairment { jitter: ms(3), loss: Loss::Random(0.001), rate: Some(rate), ..Impairment::calm(ms(22)) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// So many Mbit/s, with a queue that takes so many milliseconds to send.
fn mbit(mbit: u64, queue_ms: u64) -> Rate {
    Rate { bits: mbit * 1_000_000, queue: mbit * 1000 * queue_ms / 8 }
}
