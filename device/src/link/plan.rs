//! How records are repeated: a pure function of what is known of the link.
//!
//! A redundant transmission helps only in another packet than the record, and only if it comes sooner than a retransmission
//! would. Where the next records come soon, it is piggybacked on their packets and costs little; where they are far apart, it
//! needs a standalone packet. A burst of losses takes a record and its redundant transmission alike, unless that one is further
//! behind than the burst lasts: the first packet after its end counts, and a packet between two records comes sooner than a record.

use std::time::Duration;

use super::{Link, Redundancy, Settings};

/// Most redundant transmissions of one record.
pub const MAX_REDUNDANCY: u8 = 4;
/// Cost of a standalone packet beyond its frames, in bytes: IP and UDP (28), QUIC's header and tag (27), the stream's (5).
pub const PACKET: usize = 60;
/// Bytes that a record counts as at least where the budget is kept: most of a small record's packet is headers, and another one for it is worth more than
/// it costs.
pub const SMALL: usize = 210;
/// Loss under which nothing is repeated.
const CLEAN: f64 = 0.002;
/// Time from a record to its standalone redundant transmission: enough for another packet and for a short collision.
const STANDALONE_AFTER: Duration = Duration::from_millis(2);
/// Records further apart than that have standalone ones between them.
const FAR: Duration = Duration::from_millis(4);
/// Factor on the measured loss, which rests on few packets: too little redundancy costs more than too much.
const CAUTION: f64 = 1.5;
/// Share of an interval between records that a measured burst may be too long by.
const TOO_LONG: f64 = 0.25;
/// How long a redundant transmission is of use where the round-trip time is not known.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// Pace and size of the sender's own records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Records {
    /// Time between two of them.
    pub interval: Duration,
    /// Bytes of one in a packet, without the packet's own.
    pub bytes: f64,
}

/// How the next records are repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plan {
    /// Redundant transmissions of each record.
    pub redundancy: u8,
    /// After how long the first redundant transmission gets a packet of its own; `None`: it waits for a later record's.
    pub standalone: Option<Duration>,
    /// How far a redundant transmission is behind the one before it, at least. With `standalone`: in the packets between records, too.
    pub spread: Duration,
}

/// Plans the redundancy of the next records.
pub fn plan(settings: &Settings, link: &Link, records: Records) -> Plan {
    let fixed = match settings.redundancy {
        Redundancy::Off => return Plan::default(),
        Redundancy::Always(redundancy) => Some(redundancy.min(MAX_REDUNDANCY)),
        Redundancy::Auto => None,
    };
    // Nothing measured yet: one redundant transmission, where it is cheap.
    let loss = link.loss.unwrap_or(if settings.redundancy == Redundancy::Auto { CLEAN } else { 0.0 });
    let wanted = fixed.unwrap_or_else(|| wanted(loss, settings.residual));
    if wanted == 0 {
        return Plan::default();
    }
    let standalone_cost = records.bytes + PACKET as f64;
    let room = (settings.budget - 1.0) * standalone_cost.max(SMALL as f64);
    if let Some(burst) = link.burst {
        return through(burst, records, room);
    }
    // In units of the time between records; later than a round trip and a half a retransmission has come already.
    let rtt = link.rtt.unwrap_or(UNKNOWN_RTT).mul_f64(1.5);
    let useful =
        if records.interval.is_zero() { u32::from(MAX_REDUNDANCY) } else { (rtt.as_secs_f64() / records.interval.as_secs_f64()) as u32 };
    let piggybacked = u32::from(wanted).min(useful).min((room / records.bytes.max(1.0)) as u32) as u8;
    if records.interval > FAR && link.loss.is_some() && room >= standalone_cost {
        let more = ((room - standalone_cost) / records.bytes.max(1.0)) as u8;
        let redundancy = wanted.min(1 + more.min(piggybacked));
        if redundancy >= wanted || piggybacked < wanted {
            return Plan { redundancy, standalone: Some(STANDALONE_AFTER), spread: Duration::ZERO };
        }
    }
    Plan { redundancy: piggybacked, standalone: None, spread: Duration::ZERO }
}

/// Spreads as many redundant transmissions as there is room for evenly over a burst: the first one after its end is the one that
/// counts, whenever in the burst the record was sent.
fn through(burst: Duration, records: Records, room: f64) -> Plan {
    let bytes = records.bytes.max(1.0);
    // Of several records one packet takes the redundant transmissions, so theirs are whole times between records apart.
    let shared = ((room - PACKET as f64) / bytes) as u8;
    if records.interval > FAR && records.interval <= burst && shared > 1 {
        let redundancy = shared.min(MAX_REDUNDANCY);
        let first = records.interval + STANDALONE_AFTER;
        let each = burst.saturating_sub(first).as_secs_f64() / f64::from(redundancy - 1);
        // A burst is measured rather too long: a survivor is hardly ever next to it.
        let intervals = (each / records.interval.as_secs_f64() - TOO_LONG).ceil().max(1.0);
        let spread = records.interval.mul_f64(intervals);
        return Plan { redundancy, standalone: Some(first), spread };
    }
    let each = if records.interval > burst { bytes + PACKET as f64 } else { bytes };
    match (room / each) as u8 {
        0 => Plan::default(),
        fit => {
            let redundancy = fit.min(MAX_REDUNDANCY);
            Plan { redundancy, standalone: None, spread: burst / u32::from(redundancy) }
        }
    }
}

/// Fewest redundant transmissions with which no more than `residual` of the records are lost with all of them.
fn wanted(loss: f64, residual: f64) -> u8 {
    if loss < CLEAN {
        return 0;
    }
    let loss = loss * CAUTION;
    (1..MAX_REDUNDANCY).find(|redundancy| loss.powi(i32::from(*redundancy) + 1) <= residual).unwrap_or(MAX_REDUNDANCY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(loss: f64, burst_ms: u64, interval_ms: u64, budget: f64) -> Plan {
        let link =
            Link { loss: Some(loss), burst: (burst_ms > 0).then(|| Duration::from_millis(burst_ms)), rtt: Some(Duration::from_millis(50)) };
        let settings = Settings { budget, ..Settings::default() };
        plan(&settings, &link, Records { interval: Duration::from_millis(interval_ms), bytes: 25.0 })
    }

    #[test]
    fn nothing_is_repeated_on_a_clean_link_or_where_bytes_cost_money() {
        assert_eq!(planned(0.001, 0, 10, 2.0), Plan::default());
        assert_eq!(planned(0.1, 0, 10, 1.0), Plan::default());
        let off = Settings { redundancy: Redundancy::Off, ..Settings::default() };
        let link = Link { loss: Some(0.2), ..Link::default() };
        assert_eq!(plan(&off, &link, Records { interval: Duration::from_millis(10), bytes: 25.0 }), Plan::default());
    }

    #[test]
    fn as_many_copies_as_the_loss_asks_for() {
        let piggybacked = |redundancy| Plan { redundancy, standalone: None, spread: Duration::ZERO };
        for (loss, redundancy) in [(0.01, 1), (0.02, 1), (0.03, 2), (0.05, 2), (0.1, 3), (0.5, 4)] {
            assert_eq!(planned(loss, 0, 2, 2.0), piggybacked(redundancy), "{loss}");
        }
    }

    #[test]
    fn what_is_left_of_the_budget_makes_the_first_copy_sooner() {
        let standalone = |redundancy| Plan { redundancy, standalone: Some(STANDALONE_AFTER), spread: Duration::ZERO };
        for (loss, redundancy) in [(0.01, 1), (0.05, 2), (0.1, 3), (0.2, 4)] {
            assert_eq!(planned(loss, 0, 10, 2.0), standalone(redundancy), "{loss}");
        }
        assert_eq!(
            planned(0.05, 0, 10, 1.5),
            Plan { redundancy: 2, standalone: None, spread: Duration::ZERO },
            "two: no room for a packet"
        );
        assert_eq!(planned(0.05, 0, 100, 2.0), standalone(1), "the next record comes too late");
    }

    #[test]
    fn a_large_record_has_room_for_what_it_is_itself() {
        let (settings, link) = (Settings::default(), Link { loss: Some(0.1), burst: None, rtt: Some(Duration::from_millis(50)) });
        let plan = plan(&settings, &link, Records { interval: Duration::from_millis(10), bytes: 900.0 });
        assert_eq!((plan.redundancy, plan.standalone), (1, Some(STANDALONE_AFTER)));
    }

    #[test]
    fn copies_reach_beyond_bursts_in_packets_between_records() {
        for (burst, apart) in [(40, 10), (49, 10), (55, 20), (79, 20), (100, 30)] {
            let spread = Duration::from_millis(apart);
            let plan = planned(0.05, burst, 10, 2.0);
            assert_eq!(plan, Plan { redundancy: 4, standalone: Some(Duration::from_millis(12)), spread }, "{burst}");
        }
        let plan = planned(0.05, 50, 2, 2.0);
        assert_eq!((plan.redundancy, plan.standalone), (4, None), "records come so often that no packet between them is needed");
        assert!(plan.spread * 4 >= Duration::from_millis(49), "{plan:?}");
        assert_eq!(planned(0.05, 50, 1000, 2.0).redundancy, 2, "a packet for each is dear");
    }

    #[test]
    fn before_anything_is_known_one_cheap_copy() {
        let plan = plan(&Settings::default(), &Link::default(), Records { interval: Duration::from_millis(10), bytes: 25.0 });
        assert_eq!(plan, Plan { redundancy: 1, standalone: None, spread: Duration::ZERO });
    }
}
