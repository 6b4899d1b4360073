//! Rates hold, for one holder and for several nodes.

use super::{unit::LONGEST_WAIT, *};

const USER: UserId = UserId(7);
const TICK: Duration = Duration::from_millis(50);

fn plan(records: u64) -> PlanLimits {
    PlanLimits { records_per_second: Some(records), ..PlanLimits::default() }
}

fn assignments(own: Option<PlanLimits>, organisation: Option<PlanLimits>) -> Assignments {
    let assigned = Assigned { own, organisation: organisation.map(|plan| ("org".into(), plan)) };
    Assignments { accounts: [(USER, assigned.clone()), (UserId(8), assigned)].into(), default: None }
}

fn records(count: u64) -> [(Unit, u64); 1] {
    [(Unit::Records, count)]
}

#[test]
fn without_a_plan_there_is_no_limit_and_with_one_it_holds_at_once() {
    let quotas = Quotas::default();
    let quota = quotas.of(USER);
    (0..1000).for_each(|_| quota.take(&records(1000)).unwrap());
    assert!(!quota.limits(Unit::ALL) && quotas.active().is_empty());
    quotas.assign(assignments(Some(plan(10)), None));
    quota.take(&records(25)).unwrap();
    let exceeded = quota.take(&records(1)).unwrap_err();
    assert_eq!((exceeded.unit, exceeded.holder, exceeded.rate, exceeded.wait), (Unit::Records, "account", 10, Duration::from_millis(1600)));
    for bucket in quotas.active() {
        bucket.refill(Duration::from_millis(1600));
    }
    quota.take(&records(1)).unwrap();
    quotas.assign(Assignments::default());
    assert!(quota.take(&records(1000)).is_ok() && !quota.limits(Unit::ALL));
}

#[test]
fn an_organisation_holds_all_its_accounts_to_one_rate() {
    let quotas = Quotas::default();
    quotas.assign(assignments(None, Some(plan(10))));
    let (first, second) = (quotas.of(USER), quotas.of(UserId(8)));
    first.take(&records(10)).unwrap();
    assert_eq!(second.take(&records(1)).unwrap_err().holder, "organisation");
    quotas.of(UserId(9)).take(&records(1000)).unwrap();
}

#[test]
fn what_goes_in_and_what_goes_out_have_rates_of_their_own() {
    let quotas = Quotas::default();
    let plan = PlanLimits { bytes_out_per_second: Some(100), ..PlanLimits::default() };
    quotas.assign(assignments(Some(plan), None));
    let quota = quotas.of(USER);
    assert!(quota.limits(OUT) && !quota.limits([Unit::Records, Unit::Bytes, Unit::Requests]));
    let one = [(Unit::RecordsOut, 1), (Unit::BytesOut, 1)];
    quota.look(&one).unwrap();
    quota.charge(&[(Unit::RecordsOut, 1), (Unit::BytesOut, 150)]);
    let exceeded = quota.look(&one).unwrap_err();
    assert_eq!((exceeded.unit, exceeded.wait, exceeded.pause()), (Unit::BytesOut, Duration::from_millis(510), LONGEST_WAIT));
    assert!(exceeded.to_string().contains("allows 100 bytes given out a second"), "{exceeded}");
    quota.take(&[(Unit::Bytes, 1000)]).unwrap();
}

#[test]
fn a_plan_named_default_holds_for_whoever_has_none() {
    let quotas = Quotas::default();
    quotas.assign(Assignments { default: Some(plan(1)), ..assignments(Some(plan(10)), None) });
    quotas.of(USER).take(&records(10)).unwrap();
    let other = quotas.of(UserId(99));
    other.take(&records(1)).unwrap();
    assert!(other.take(&records(1)).is_err());
}

#[tokio::test]
async fn whoever_waits_is_let_in_by_the_clock() {
    let quotas = Quotas::default();
    quotas.assign(assignments(Some(plan(100)), None));
    let quota = quotas.of(USER);
    quota.take(&records(100)).unwrap();
    assert!(quota.admit(&records(1), Duration::from_millis(5)).await.is_err());
    let filler = async {
        loop {
            sleep(TICK).await;
            quotas.active().iter().for_each(|bucket| bucket.refill(TICK));
        }
    };
    let one = records(1);
    tokio::select! {
        outcome = quota.admit(&one, Duration::from_secs(60)) => outcome.unwrap(),
        () = filler => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn who_began_to_wait_first_is_let_in_first() {
    let quotas = Quotas::default();
    quotas.assign(assignments(Some(plan(100)), Some(plan(100))));
    let (one, other) = (quotas.of(USER), quotas.of(UserId(8)));
    one.take(&records(110)).unwrap();
    let order = Mutex::new(Vec::new());
    let wait = async |who: &Quota, name| {
        who.admit(&records(20), Duration::from_secs(60)).await.unwrap();
        order.lock().push(name);
    };
    let filler = async {
        while order.lock().len() < 4 {
            sleep(Duration::from_millis(5)).await;
            quotas.active().iter().for_each(|bucket| bucket.refill(TICK));
        }
    };
    tokio::join!(wait(&one, 1), wait(&other, 2), wait(&other, 3), wait(&one, 4), filler);
    assert_eq!(*order.lock(), [1, 2, 3, 4]);
}

/// The shared bucket, as Redis has it: half a second's worth.
struct Shared {
    available: f64,
    total: u64,
}

impl Shared {
    fn lease(&mut self, want: u64) -> (u64, u64) {
        let granted = if want as f64 <= self.available { want } else { (self.available / 2.0) as u64 };
        self.available -= granted as f64;
        self.total += granted;
        (granted, self.total)
    }
}

/// Records that three nodes let through in so many ticks; `away`: ticks in which the shared bucket does not answer.
fn run(rate: u64, demand: [u64; 3], ticks: usize, away: std::ops::Range<usize>) -> u64 {
    let mut shared = Shared { available: rate as f64 * 500.0, total: 0 };
    let nodes: Vec<Quotas> = demand
        .iter()
        .map(|_| {
            let quotas = Quotas::default();
            quotas.share();
            quotas.assign(assignments(Some(plan(rate)), None));
            quotas
        })
        .collect();
    let held: Vec<Arc<Quota>> = nodes.iter().map(|quotas| quotas.of(USER)).collect();
    let mut passed = 0;
    for tick in 0..ticks {
        shared.available = (shared.available + rate as f64 * 1000.0 * TICK.as_secs_f64()).min(rate as f64 * 500.0);
        for turn in 0..3 {
            let node = (tick * 7 + turn) % 3;
            for _ in 0..demand[node] {
                passed += u64::from(held[node].take(&records(1)).is_ok());
            }
            for bucket in nodes[node].active() {
                let ask = bucket.ask();
                if away.contains(&tick) {
                    bucket.refill_alone(TICK, 3);
                } else if ask > 0 {
                    let (granted, total) = shared.lease(ask);
                    bucket.granted(granted, total);
                }
            }
        }
    }
    passed
}

#[test]
fn three_nodes_share_a_rate_and_are_wrong_by_a_tenth_at_most() {
    // Twenty ticks are a second; each node's demand is by tick.
    for (rate, demand, away) in [
        (1000, [100, 100, 100], 0..0),
        (1000, [200, 0, 0], 0..0),
        (1000, [150, 10, 0], 0..0),
        (20, [2, 2, 2], 0..0),
        (1000, [100, 100, 100], 100..400),
        (1000, [200, 0, 0], 100..400),
        (1000, [90, 30, 0], 100..400),
    ] {
        let passed = run(rate, demand, 400, away.clone());
        let right = rate * 20;
        assert!(passed * 10 >= right * 9 && passed * 10 <= right * 11, "{rate} {demand:?} {away:?}: {passed} for {right}");
    }
}
