//! Ranked series: the few of many consumers, producers or devices that matter most at the moment. Each list takes the place of the one before,
//! so that their number stays bounded and nothing is shown that is no longer so.

use std::{collections::BTreeMap, fmt::Write as _, sync::LazyLock};

use parking_lot::Mutex;

use super::text::label;

/// Most of one list.
pub const RANKED: usize = 20;

/// Values of the labels, in the order of the table of series, and the value.
pub type Row = (Vec<String>, f64);

static ALL: LazyLock<Mutex<BTreeMap<&'static str, Vec<Row>>>> = LazyLock::new(Mutex::default);

/// Sets a ranked series: of `rows`, which begin with what matters most, the first [`RANKED`].
pub fn rank(name: &'static str, mut rows: Vec<Row>) {
    rows.truncate(RANKED);
    ALL.lock().insert(name, rows);
}

/// The lists of these series as Prometheus text; `about` gives the description and the labels of each.
pub(super) fn render(out: &mut String, names: impl Iterator<Item = &'static str>, about: impl Fn(&str) -> (String, Vec<&'static str>)) {
    let all = ALL.lock();
    for name in names {
        let (help, labels) = about(name);
        let _ = writeln!(out, "{help}# TYPE {name} gauge");
        for (values, value) in all.get(name).into_iter().flatten() {
            let known: Vec<String> = labels.iter().zip(values).map(|(name, value)| label(name, value)).collect();
            let _ = writeln!(out, "{name}{{{}}} {value}", known.join(","));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_bounded_and_replaced() {
        let text = || {
            let mut text = String::new();
            render(&mut text, ["motience_b_test"].into_iter(), |_| ("# HELP x A.\n".to_owned(), vec!["one", "two"]));
            text
        };
        rank("motience_b_test", (0..100_u32).map(|n| (vec![n.to_string(), "a\nb".to_owned()], f64::from(n))).collect());
        assert_eq!(text().matches("motience_b_test{").count(), RANKED);
        assert!(text().contains("# HELP x A.\n# TYPE motience_b_test gauge\nmotience_b_test{one=\"0\",two=\"a\\nb\"} 0\n"), "{}", text());
        rank("motience_b_test", Vec::new());
        assert!(!text().contains("motience_b_test{"));
    }
}
