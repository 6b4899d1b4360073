//! Plots as SVG: lines on linear or logarithmic axes, each labelled where it ends. Colours are CSS variables of the page.

use std::fmt::Write as _;

/// Size of the drawing, and what is left around the axes.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;
/// Labels at the ends of lines are at least this far apart.
const LABEL: f64 = 16.0;

/// How values become places.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) title: String,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Where it is marked, and with what.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    fn share(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// A logarithmic axis of milliseconds around these values.
    pub(super) fn milliseconds(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = (low.min(25.0) * 0.9, high.max(100.0) * 1.15);
        let ticks = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000].map(f64::from);
        let shown = ticks.into_iter().filter(|t| (low..=high).contains(t) && *t != 20.0);
        let ticks = shown.map(|t| (t, if t < 1000.0 { format!("{t}") } else { format!("{} s", t / 1000.0) })).collect();
        Self { title: "ms".into(), low, high, log: true, ticks }
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: String,
    /// The CSS class with its colour.
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
    /// Low and high end of each point's interval, where there are any.
    pub(super) whiskers: Vec<(f64, f64)>,
    /// Draw the points.
    pub(super) dots: bool,
}

/// Draws.
pub(super) fn svg(x: &Axis, y: &Axis, series: &[Series], description: &str) -> String {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let px = |v: f64| LEFT + x.share(v) * (right - LEFT);
    let py = |v: f64| bottom - y.share(v) * (bottom - TOP);
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">"#);
    // Writing to memory cannot fail.
    for (value, text) in &y.ticks {
        let at = py(*value);
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
        let _ = write!(svg, r#"<text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{text}</text>"#, LEFT - 8.0, at + 4.0);
    }
    for (value, text) in &x.ticks {
        let at = px(*value);
        let _ = write!(svg, r#"<line class="grid faint" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{bottom}"/>"#);
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{text}</text>"#, bottom + 18.0);
    }
    let _ = write!(
        svg,
        r#"<text class="axis" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        f64::midpoint(LEFT, right),
        HEIGHT - 6.0,
        x.title
    );
    let _ = write!(svg, r#"<text class="axis" x="0" y="{:.1}">{}</text>"#, TOP - 14.0, y.title);
    for s in series {
        let _ = write!(svg, r#"<g class="{}">"#, s.class);
        for ((at, _), (low, high)) in s.points.iter().zip(&s.whiskers) {
            let _ = write!(svg, r#"<line class="whisker" x1="{0:.1}" x2="{0:.1}" y1="{1:.1}" y2="{2:.1}"/>"#, px(*at), py(*low), py(*high));
        }
        let path: String = s
            .points
            .iter()
            .enumerate()
            .map(|(n, (a, b))| format!("{}{:.1} {:.1}", if n == 0 { 'M' } else { 'L' }, px(*a), py(*b)))
            .collect();
        let _ = write!(svg, r#"<path d="{path}"/>"#);
        if s.dots {
            for (a, b) in &s.points {
                let _ = write!(svg, r#"<circle cx="{:.1}" cy="{:.1}" r="3.6"/>"#, px(*a), py(*b));
            }
        }
        svg.push_str("</g>");
    }
    labels(&mut svg, series, right, bottom, &px, &py);
    svg.push_str("</svg>");
    svg
}

/// Each line's label to the right of the axes, near its end, and none over another.
fn labels(svg: &mut String, series: &[Series], right: f64, bottom: f64, px: &impl Fn(f64) -> f64, py: &impl Fn(f64) -> f64) {
    let mut ends: Vec<(f64, f64, f64, &Series)> =
        series.iter().filter_map(|s| s.points.last().map(|(a, b)| (py(*b), px(*a), py(*b), s))).collect();
    // Lines that end on the floor are ordered by where they meet it.
    ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    for n in 1..ends.len() {
        ends[n].0 = ends[n].0.max(ends[n - 1].0 + LABEL);
    }
    let mut floor = bottom + 4.0;
    for end in ends.iter_mut().rev() {
        end.0 = end.0.min(floor);
        floor = end.0 - LABEL;
    }
    for (at, x, y, s) in ends {
        let (from, to) = (x + 5.0, right + 8.0);
        let _ = write!(svg, r#"<g class="{}"><path class="leader" d="M{from:.1} {y:.1}L{to:.1} {at:.1}"/>"#, s.class);
        let _ = write!(svg, r#"<text class="label" x="{:.1}" y="{:.1}">{}</text></g>"#, to + 4.0, at + 4.0, s.label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_apart_and_inside() {
        let axis = |log| Axis { title: "t".into(), low: 1.0, high: 100.0, log, ticks: vec![(10.0, "10".into())] };
        let line = |n: usize| Series {
            label: format!("l{n}"),
            class: "mqtt",
            points: vec![(1.0, 50.0), (100.0, 2.0)],
            whiskers: Vec::new(),
            dots: true,
        };
        let drawn = svg(&axis(true), &axis(false), &[line(0), line(1), line(2)], "three lines");
        let mut places: Vec<f64> = drawn
            .split(r#"<text class="label""#)
            .skip(1)
            .map(|text| text.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        places.sort_by(f64::total_cmp);
        assert_eq!(places.len(), 3);
        assert!(places.windows(2).all(|p| p[1] - p[0] >= LABEL - 0.2), "{places:?}");
        assert!(places.iter().all(|p| (0.0..HEIGHT).contains(p)), "{places:?}");
    }

    #[test]
    fn a_log_axis_gives_equal_room_to_equal_factors() {
        let axis = Axis { title: String::new(), low: 1.0, high: 100.0, log: true, ticks: Vec::new() };
        assert!((axis.share(10.0) - 0.5).abs() < 1e-9);
    }
}
