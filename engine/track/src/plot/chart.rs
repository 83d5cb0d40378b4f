//! One chart: a grid, its labels, and a curve for each run.

use crate::svg::Svg;
use std::fmt::Display;

use super::{
    Stroke,
    curve::Curve,
    metrics::Series,
    scale::{Scale, drawable},
};

/// Height of a chart with its title and labels, in pixels.
pub(super) const HEIGHT: f64 = 232.0;
/// Left edge of the plotted area; labels are left of it.
pub(super) const LEFT: f64 = 72.0;
/// Width of the plotted area.
pub(super) const PLOT_WIDTH: f64 = 784.0;
/// Upper edge of the plotted area; the title is above it.
const TOP: f64 = 22.0;
/// Height of the plotted area.
const PLOT_HEIGHT: f64 = 172.0;

/// Colour of labels.
const GREY: &str = "#666";
/// Colour of grid lines.
const GRID: &str = "#e6e6e6";
/// Maximum number of circles; more would overlap.
const MAX_CIRCLES: usize = 120;

/// Series of several runs over the same axes.
pub(super) struct Chart<'a> {
    title: &'static str,
    /// Scales of steps and values; `None` if there is no value to draw.
    scales: Option<(Scale, Scale)>,
    layers: Vec<Layer<'a>>,
}

/// A series and its style.
pub(super) struct Layer<'a> {
    pub series: &'a Series,
    pub stroke: Stroke,
    pub mark: Mark,
}

/// Mark of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line: training.
    Line,
    /// A line with a circle at each value: validation.
    Circles,
}

impl<'a> Chart<'a> {
    /// Creates a chart of `layers`, the last on top. `fit` returns the scale for their values.
    pub(super) fn new(title: &'static str, steps: Option<Scale>, layers: Vec<Layer<'a>>, fit: fn(&[f64]) -> Option<Scale>) -> Self {
        let values: Vec<f64> = layers.iter().flat_map(|layer| layer.series.values().flatten()).copied().collect();
        let scales = steps.zip(fit(&values));
        Self { title, scales, layers }
    }

    fn has_circles(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.mark == Mark::Circles && layer.series.values().any(Option::is_some))
    }

    /// Draws the key of training and validation, if there are validations.
    fn key(&self, svg: &mut Svg) {
        if !self.has_circles() {
            return;
        }
        let y = TOP - 12.0;
        for (name, mark, left) in [("training", Mark::Line, 656.0), ("validation", Mark::Circles, 760.0)] {
            let line = svg.element("path").attr("d", format_args!("M{left} {y}h26"));
            line.attr("fill", "none").attr("stroke", GREY).attr("stroke-width", "1.4").close();
            if mark == Mark::Circles {
                circle(svg, left + 13.0, y, GREY);
            }
            let text = svg.element("text").attr("x", left + 34.0).attr("y", y + 4.0);
            text.attr("fill", GREY).words(name);
        }
    }

    fn grid(&self, svg: &mut Svg, steps: Scale, values: Scale) {
        let bottom = TOP + PLOT_HEIGHT;
        for tick in steps.ticks() {
            let x = format!("{:.1}", LEFT + tick.place * PLOT_WIDTH);
            let line = svg.element("path").attr("d", format_args!("M{x} {TOP}V{bottom}"));
            line.attr("stroke", GRID).close();
            let label = svg.element("text").attr("x", x).attr("y", bottom + 16.0);
            label.attr("text-anchor", "middle").attr("fill", GREY).words(&tick.label);
        }
        for tick in values.ticks() {
            let y = bottom - tick.place * PLOT_HEIGHT;
            let line = svg.element("path").attr("d", format_args!("M{LEFT} {y:.1}h{PLOT_WIDTH}"));
            line.attr("stroke", GRID).close();
            let label = svg.element("text").attr("x", LEFT - 8.0).attr("y", format_args!("{:.1}", y + 4.0));
            label.attr("text-anchor", "end").attr("fill", GREY).words(&tick.label);
        }
    }

    fn curves(&self, svg: &mut Svg, steps: Scale, values: Scale) {
        for Layer { series, stroke, mark } in &self.layers {
            // Training is fainter behind validations.
            let opacity = if *mark == Mark::Line && self.has_circles() { 0.55 } else { 0.85 };
            let curve = Curve::new(series.iter().map(|(step, value)| {
                let x = LEFT + steps.place(*step as f64) * PLOT_WIDTH;
                let value = value.filter(|value| drawable(*value));
                (x, value.map(|value| TOP + (1.0 - values.place(value)) * PLOT_HEIGHT))
            }));
            if curve.has_lines() {
                let line = svg.element("path").attr("d", &curve).attr("fill", "none");
                let line = line.attr("stroke-width", "1.4").attr("stroke-opacity", opacity);
                stroke.on(line.attr("stroke-linejoin", "round")).close();
            }
            if *mark == Mark::Circles && curve.points().count() <= MAX_CIRCLES {
                for (x, y) in curve.points() {
                    circle(svg, format_args!("{x:.1}"), format_args!("{y:.1}"), stroke.colour);
                }
                continue;
            }
            for (x, y) in curve.dots() {
                let dot = svg.element("circle").attr("cx", format_args!("{x:.1}"));
                let dot = dot.attr("cy", format_args!("{y:.1}"));
                dot.attr("r", "2.5").attr("fill", stroke.colour).close();
            }
        }
    }

    /// Draws the chart with its upper left corner at the origin.
    pub(super) fn draw(&self, svg: &mut Svg) {
        let title = svg.element("text").attr("x", LEFT).attr("y", TOP - 8.0);
        let title = title.attr("font-size", 13).attr("font-weight", "bold");
        match self.scales {
            Some((_, Scale::Log { .. })) => title.words_and(self.title, "(log scale)", GREY),
            _ => title.words(self.title),
        }
        self.key(svg);
        if let Some((steps, values)) = self.scales {
            self.grid(svg, steps, values);
            self.curves(svg, steps, values);
        } else {
            let (x, y) = (LEFT + PLOT_WIDTH / 2.0, TOP + PLOT_HEIGHT / 2.0);
            let text = svg.element("text").attr("x", x).attr("y", y);
            text.attr("text-anchor", "middle").attr("fill", GREY).words("no values");
        }
        // Drawn last, so that no curve hides it.
        let frame = svg.element("rect").attr("x", LEFT).attr("y", TOP);
        let frame = frame.attr("width", PLOT_WIDTH).attr("height", PLOT_HEIGHT);
        frame.attr("fill", "none").attr("stroke", "#999").close();
    }
}

/// Draws the mark of a validation, filled so that no line shows through.
fn circle(svg: &mut Svg, x: impl Display, y: impl Display, colour: &str) {
    let circle = svg.element("circle").attr("cx", x).attr("cy", y);
    let circle = circle.attr("r", "2.8").attr("fill", "#fff").attr("stroke-width", "1.4");
    circle.attr("stroke", colour).close();
}
