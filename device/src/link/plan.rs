//! How records are repeated: a pure function of what is known of the link.
//!
//! A copy helps only in another packet than the record, and only if it comes sooner than a retransmission would. Where
//! the next records come soon, copies ride in their packets and cost little; where they are far apart, a copy needs a packet
//! of its own. Losses that come together take a record and its copy alike unless the copy is further behind than they last.

use std::time::Duration;

use super::{Link, Redundancy, Settings};

/// Most copies of one record.
pub const MAX_COPIES: u8 = 4;
/// What a packet of its own costs beyond its frames, in bytes: IP and UDP (28), QUIC's header and tag (27), the stream's (5).
pub const PACKET: usize = 60;
/// Loss under which nothing is repeated.
const CLEAN: f64 = 0.002;
/// How far behind its record a copy in a packet of its own travels: far enough for another packet and for a short collision.
const OWN_AFTER: Duration = Duration::from_millis(3);
/// How much higher than measured the loss may be: it is measured with few packets, and too few copies cost more than too many.
const CAUTION: f64 = 1.5;
/// How long a copy is of use where the round-trip time is not known.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// What the sender knows of its own records.
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
    /// How often each.
    pub copies: u8,
    /// After how long the first copy gets a packet of its own; `None`: it waits for a later record's.
    pub own: Option<Duration>,
    /// How far a copy is behind the one before it, at least.
    pub spread: Duration,
}

/// Plans.
pub fn plan(settings: &Settings, link: &Link, records: Records) -> Plan {
    let fixed = match settings.redundancy {
        Redundancy::Off => return Plan::default(),
        Redundancy::Always(copies) => Some(copies.min(MAX_COPIES)),
        Redundancy::Auto => None,
    };
    // Nothing measured yet: one copy, where it is cheap.
    let loss = link.loss.unwrap_or(if settings.redundancy == Redundancy::Auto { CLEAN } else { 0.0 });
    let wanted = fixed.unwrap_or_else(|| wanted(loss, settings.residual));
    if wanted == 0 {
        return Plan::default();
    }
    let own_cost = records.bytes + PACKET as f64;
    let room = (settings.budget - 1.0) * own_cost;
    if let Some(burst) = link.burst {
        return through(burst, records, room);
    }
    // In units of the time between records; later than a round trip and a half a retransmission has come already.
    let rtt = link.rtt.unwrap_or(UNKNOWN_RTT).mul_f64(1.5);
    let useful =
        if records.interval.is_zero() { u32::from(MAX_COPIES) } else { (rtt.as_secs_f64() / records.interval.as_secs_f64()) as u32 };
    let riding = u32::from(wanted).min(useful).min((room / records.bytes.max(1.0)) as u32) as u8;
    if records.interval > OWN_AFTER && link.loss.is_some() && room >= own_cost {
        let more = ((room - own_cost) / records.bytes.max(1.0)) as u8;
        let copies = wanted.min(1 + more.min(riding));
        if copies >= wanted || riding < wanted {
            return Plan { copies, own: Some(OWN_AFTER), spread: Duration::ZERO };
        }
    }
    Plan { copies: riding, own: None, spread: Duration::ZERO }
}

/// As many copies as there is room for, evenly over the length of a burst: the first one after its end is the one that
/// counts, whenever in the burst the record was sent.
fn through(burst: Duration, records: Records, room: f64) -> Plan {
    let each = if records.interval > burst { records.bytes + PACKET as f64 } else { records.bytes.max(1.0) };
    match (room / each) as u8 {
        0 => Plan::default(),
        fit => {
            let copies = fit.min(MAX_COPIES);
            Plan { copies, own: None, spread: burst / u32::from(copies) }
        }
    }
}

/// Fewest copies with which no more than `residual` of the records are lost with all of them.
fn wanted(loss: f64, residual: f64) -> u8 {
    if loss < CLEAN {
        return 0;
    }
    let loss = loss * CAUTION;
    (1..MAX_COPIES).find(|copies| loss.powi(i32::from(*copies) + 1) <= residual).unwrap_or(MAX_COPIES)
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
        let riding = |copies| Plan { copies, own: None, spread: Duration::ZERO };
        for (loss, copies) in [(0.01, 1), (0.02, 1), (0.03, 2), (0.05, 2), (0.1, 3), (0.5, 3)] {
            assert_eq!(planned(loss, 0, 2, 2.0), riding(copies), "{loss}");
        }
    }

    #[test]
    fn what_is_left_of_the_budget_makes_the_first_copy_sooner() {
        let own = |copies| Plan { copies, own: Some(OWN_AFTER), spread: Duration::ZERO };
        assert_eq!(planned(0.01, 0, 10, 2.0), own(1), "one copy, and a packet for it");
        assert_eq!(planned(0.05, 0, 10, 2.0), Plan { copies: 2, own: None, spread: Duration::ZERO }, "two: no room for a packet");
        assert_eq!(planned(0.05, 0, 10, 2.5), own(2));
        assert_eq!(planned(0.05, 0, 100, 2.0), own(1), "the next record comes too late");
    }

    #[test]
    fn copies_reach_beyond_bursts() {
        let plan = planned(0.05, 50, 10, 2.0);
        assert_eq!((plan.copies, plan.own), (3, None));
        assert!(plan.spread * 3 >= Duration::from_millis(49), "{plan:?}");
        assert_eq!(planned(0.05, 50, 1000, 2.0).copies, 1, "a packet for each is dear");
    }

    #[test]
    fn before_anything_is_known_one_cheap_copy() {
        let plan = plan(&Settings::default(), &Link::default(), Records { interval: Duration::from_millis(10), bytes: 25.0 });
        assert_eq!(plan, Plan { copies: 1, own: None, spread: Duration::ZERO });
    }
}
