//! Charts of the report: lines over linear or logarithmic axes, as SVG.

use std::ops::Range;

use anyhow::Result;
use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    },
    prelude::*,
};

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";

/// An axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) title: String,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
    /// Values that are marked, and their labels.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A logarithmic axis of milliseconds around these values.
    pub(super) fn milliseconds(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = (low.min(25.0) * 0.9, high.max(100.0) * 1.15);
        let ticks = [1, 2, 5, 10, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000].map(f64::from);
        let shown = ticks.into_iter().filter(|t| (low..=high).contains(t));
        let ticks = shown.map(|t| (t, if t < 1000.0 { format!("{t}") } else { format!("{} s", t / 1000.0) })).collect();
        Self { title: "ms".into(), low, high, log: true, ticks }
    }

    /// Share of the axis before a value; one outside the axis is put on its edge.
    fn share(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.ln() } else { value };
        let (low, high) = (scale(self.low), scale(self.high));
        (scale(value.clamp(self.low, self.high)) - low) / (high - low)
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (f64::from(to - from) * self.share(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let bold = !hint.weight().allow_light_points();
        self.ticks.iter().filter(|_| bold).map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(tick, _)| tick == value).map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: &'static str,
    pub(super) color: RGBColor,
    pub(super) points: Vec<(f64, f64)>,
    /// Low and high end of each point's interval, where there are any.
    pub(super) intervals: Vec<(f64, f64)>,
}

/// Draws the lines.
pub(super) fn svg(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> Result<String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(&area, title, (x, y), series)?;
    drop(area);
    Ok(svg)
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, (x, y): (&Axis, &Axis), series: &[Series]) -> Result<()> {
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x.clone(), y.clone())?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(&x.title).y_desc(&y.title).bold_line_style(BLACK.mix(0.12)).light_line_style(TRANSPARENT);
    mesh.label_style((FONT, 13)).draw()?;
    for Series { label, color, points, intervals } in series {
        let color = *color;
        let line = chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
        line.label(*label).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        let bars = points.iter().zip(intervals);
        let bars = bars.map(|((at, value), (low, high))| ErrorBar::new_vertical(*at, *low, *value, *high, color.filled(), 7));
        chart.draw_series(bars)?;
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.2));
    labels.label_font((FONT, 13)).draw()?;
    Ok(area.present()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_and_every_tick_has_its_label() {
        let x = Axis { title: "loss".into(), low: 0.0, high: 2.0, log: false, ticks: vec![(1.0, "one per cent".into())] };
        let y = Axis::milliseconds([30.0, 4000.0].into_iter());
        let line = |label| Series { label, color: BLUE, points: vec![(0.0, 50.0), (1.0, 90_000.0)], intervals: vec![(40.0, 60.0); 2] };
        let drawn = svg("two lines", &x, &y, &[line("first"), line("second")]).unwrap();
        for text in ["two lines", "one per cent", "25", "2 s", "first", "second"] {
            assert!(drawn.contains(&format!("\n{text}\n")), "{text} is missing in {drawn}");
        }
    }

    #[test]
    fn a_log_axis_gives_equal_room_to_equal_factors() {
        let axis = Axis { title: String::new(), low: 1.0, high: 100.0, log: true, ticks: Vec::new() };
        assert!((axis.share(10.0) - 0.5).abs() < 1e-9);
        assert!((axis.share(1e9) - 1.0).abs() < 1e-9, "a value beyond the axis is put on its edge");
    }
}
