//! One chart: a grid, its labels, and a curve for each run.

use std::fmt;

use super::{
    Stroke,
    curve::Curve,
    metrics::Series,
    scale::{Scale, drawable},
};

/// Height of a chart with its title and labels, in pixels.
pub(super) const HEIGHT: f64 = 232.0;
/// Left edge of the plotted area; labels stand left of it.
pub(super) const LEFT: f64 = 72.0;
/// Width of the plotted area.
pub(super) const PLOT_WIDTH: f64 = 784.0;
/// Upper edge of the plotted area; the title stands above it.
const TOP: f64 = 22.0;
/// Height of the plotted area.
const PLOT_HEIGHT: f64 = 172.0;

/// How a circle is drawn: filled, so that no line is seen through it.
const CIRCLE: &str = "r=\"2.8\" fill=\"#fff\" stroke-width=\"1.4\"";
/// More circles than this would run into each other.
const MOST_CIRCLES: usize = 120;

/// Series of several runs over the same axes.
pub(super) struct Chart<'a> {
    title: &'static str,
    /// Scales of steps and values; absent where there is no value to draw.
    scales: Option<(Scale, Scale)>,
    layers: Vec<Layer<'a>>,
}

/// A series and how it is drawn.
pub(super) struct Layer<'a> {
    pub series: &'a Series,
    pub stroke: Stroke,
    pub mark: Mark,
}

/// What a series is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line: training.
    Line,
    /// A line with a circle at each value: validation.
    Circles,
}

impl<'a> Chart<'a> {
    /// A chart of `layers`, the last on top, whose values `fit` finds a scale for.
    pub(super) fn new(title: &'static str, steps: Option<Scale>, layers: Vec<Layer<'a>>, fit: fn(&[f64]) -> Option<Scale>) -> Self {
        let values: Vec<f64> = layers.iter().flat_map(|layer| layer.series.values().flatten()).copied().collect();
        let scales = steps.zip(fit(&values));
        Self { title, scales, layers }
    }

    fn has_circles(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| layer.mark == Mark::Circles && !layer.series.is_empty())
    }

    /// Tells validation from training, where there is any.
    fn key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has_circles() {
            return Ok(());
        }
        let y = TOP - 12.0;
        for (name, mark, left) in [("training", Mark::Line, 656.0), ("validation", Mark::Circles, 760.0)] {
            writeln!(f, "<path d=\"M{left} {y}h26\" fill=\"none\" stroke=\"#666\" stroke-width=\"1.4\"/>")?;
            if mark == Mark::Circles {
                writeln!(f, "<circle cx=\"{}\" cy=\"{y}\" {CIRCLE} stroke=\"#666\"/>", left + 13.0)?;
            }
            writeln!(f, "<text x=\"{}\" y=\"{}\" fill=\"#666\">{name}</text>", left + 34.0, y + 4.0)?;
        }
        Ok(())
    }

    fn grid(&self, f: &mut fmt::Formatter<'_>, steps: Scale, values: Scale) -> fmt::Result {
        let bottom = TOP + PLOT_HEIGHT;
        for tick in steps.ticks() {
            let x = LEFT + tick.place * PLOT_WIDTH;
            writeln!(f, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e6e6e6\"/>")?;
            let y = bottom + 16.0;
            writeln!(
                f,
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
                tick.label
            )?;
        }
        for tick in values.ticks() {
            let y = bottom - tick.place * PLOT_HEIGHT;
            writeln!(f, "<path d=\"M{LEFT} {y:.1}h{PLOT_WIDTH}\" stroke=\"#e6e6e6\"/>")?;
            let (x, y) = (LEFT - 8.0, y + 4.0);
            writeln!(
                f,
                "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#666\">{}</text>",
                tick.label
            )?;
        }
        Ok(())
    }

    fn curves(&self, f: &mut fmt::Formatter<'_>, steps: Scale, values: Scale) -> fmt::Result {
        for Layer { series, stroke, mark } in &self.layers {
            // Behind validations training steps back.
            let opacity = if *mark == Mark::Line && self.has_circles() { 0.55 } else { 0.85 };
            let curve = Curve::new(series.iter().map(|(step, value)| {
                let x = LEFT + steps.place(*step as f64) * PLOT_WIDTH;
                let value = value.filter(|value| drawable(*value));
                (x, value.map(|value| TOP + (1.0 - values.place(value)) * PLOT_HEIGHT))
            }));
            if curve.has_lines() {
                writeln!(
                    f,
                    "<path d=\"{curve}\" fill=\"none\" stroke-width=\"1.4\" stroke-opacity=\"{opacity}\" stroke-linejoin=\"round\" {stroke}/>"
                )?;
            }
            if *mark == Mark::Circles && curve.points().count() <= MOST_CIRCLES {
                for (x, y) in curve.points() {
                    writeln!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" {CIRCLE} stroke=\"{}\"/>", stroke.colour)?;
                }
                continue;
            }
            for (x, y) in curve.dots() {
                writeln!(f, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{}\"/>", stroke.colour)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Chart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "<text x=\"{LEFT}\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{}",
            TOP - 8.0,
            self.title
        )?;
        if let Some((_, Scale::Log { .. })) = self.scales {
            write!(f, "<tspan dx=\"6\" font-weight=\"normal\" fill=\"#666\">(log scale)</tspan>")?;
        }
        writeln!(f, "</text>")?;
        self.key(f)?;
        if let Some((steps, values)) = self.scales {
            self.grid(f, steps, values)?;
            self.curves(f, steps, values)?;
        } else {
            let (x, y) = (LEFT + PLOT_WIDTH / 2.0, TOP + PLOT_HEIGHT / 2.0);
            writeln!(f, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#666\">no values</text>")?;
        }
        // Last, so that no curve hides it.
        writeln!(
            f,
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{PLOT_WIDTH}\" height=\"{PLOT_HEIGHT}\" fill=\"none\" stroke=\"#999\"/>"
        )
    }
}
