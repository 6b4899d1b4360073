//! The figures as Markdown, for the report and for `docs/lossy-links.md`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::results::{Results, Summary};

/// The figures stand between these.
const BEGIN: &str = "<!-- figures: written by loadtest lossy --docs -->";
const END: &str = "<!-- end of figures -->";

/// Replaces the figures in the file.
pub(super) fn put(results: &Results, file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let text = replaced(&text, &figures(results)).with_context(|| format!("{} has no place for figures ({BEGIN})", file.display()))?;
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

fn replaced(text: &str, figures: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))
}

/// The figures and the claims as tables.
pub(super) fn figures(results: &Results) -> String {
    let plan = &results.plan;
    let mut text = format!(
        "{} seeds of {:.0} s for each line, after {:.0} s of warm-up that do not count. Milliseconds; in brackets the 95 % interval.\n",
        plan.seeds, plan.seconds, plan.warm_up
    );
    for rate in results.rates() {
        for condition in results.conditions() {
            let rows: Vec<&Summary> = results.summaries.iter().filter(|s| s.cell.rate == rate && s.cell.condition == condition).collect();
            if rows.is_empty() {
                continue;
            }
            // Writing to memory cannot fail.
            let _ = write!(
                text,
                "\n**{}, {rate} records/s**\n\n| | p50 | p90 | p99 | p99.9 | undelivered | bytes a record, up + down |\n|---|---|---|---|---|---|---|\n",
                condition.title()
            );
            for row in rows {
                line(&mut text, row);
            }
        }
    }
    text.push_str("\n| claimed | measured | |\n|---|---|---|\n");
    for claim in &results.claims {
        let _ = writeln!(text, "| {} | {} | {} |", claim.text, claim.measured, if claim.holds { "holds" } else { "**falls short**" });
    }
    text
}

fn line(text: &mut String, row: &Summary) {
    let at = |p: f64| row.at(p).map_or("none".to_owned(), |e| format!("{:.1}", e.value));
    let sure = |p: f64| row.at(p).map_or("none".to_owned(), |e| format!("{:.1} ({:.0} to {:.0})", e.value, e.low, e.high));
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} of {} | {:.0} + {:.0} |",
        row.cell.system.title(),
        at(50.0),
        at(90.0),
        sure(99.0),
        sure(99.9),
        row.undelivered,
        row.due,
        row.bytes_up,
        row.bytes_down
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figures_are_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&text, "new").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "new").unwrap(), once);
        assert!(replaced("nothing", "new").is_none());
    }
}
