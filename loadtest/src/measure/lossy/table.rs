//! The results as a table for the terminal.

use super::results::{Results, Summary};

/// Prints everything.
pub(super) fn print(results: &Results) {
    say!(
        "One-way delay {} ms; percentiles in ms, with 95 % confidence intervals of p99 and p99.9; bytes are IP bytes a record.",
        results.delay_ms
    );
    for rate in results.rates() {
        for condition in results.conditions() {
            let rows: Vec<&Summary> = results.summaries.iter().filter(|s| s.cell.rate == rate && s.cell.condition == condition).collect();
            if rows.is_empty() {
                continue;
            }
            say!("\n{}, {rate} records/s", condition.title());
            say!(
                "  {:<26} {:>7} {:>7} {:>7} {:>15} {:>8} {:>17} {:>7} {:>11} {:>6} {:>6}",
                "",
                "p50",
                "p90",
                "p99",
                "",
                "p99.9",
                "",
                "records",
                "undelivered",
                "up",
                "down"
            );
            for row in rows {
                line(row);
            }
        }
    }
    say!("\nClaims");
    for claim in &results.claims {
        say!("  {} {}: {}", if claim.holds { "holds      " } else { "FALLS SHORT" }, claim.text, claim.measured);
    }
}

fn line(row: &Summary) {
    let at = |p: f64| row.at(p).map_or("-".to_owned(), |e| format!("{:.1}", e.value));
    let interval = |p: f64| row.at(p).map_or(String::new(), |e| format!("{:.0} to {:.0}", e.low, e.high));
    say!(
        "  {:<26} {:>7} {:>7} {:>7} {:>15} {:>8} {:>17} {:>7} {:>11} {:>6.0} {:>6.0}",
        row.cell.system.title(),
        at(50.0),
        at(90.0),
        at(99.0),
        interval(99.0),
        at(99.9),
        interval(99.9),
        row.due,
        row.undelivered,
        row.bytes_up,
        row.bytes_down
    );
}
