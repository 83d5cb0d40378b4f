//! Plots curves of training runs as one SVG figure: loss of training and validation, learning rate and gradient norm
//! over steps.
//!
//! ```text
//! metrics.jsonl --read--> Curves --svg--> text --write--> curves.svg
//! ```
//!
//! [`svg`] is a pure function: the same metrics give the same bytes on every machine. Only `file` accesses the disk.

mod chart;
mod curve;
mod file;
mod metrics;
mod name;
mod scale;

pub use file::{CURVES_FILE, draw};
pub use metrics::{Metrics, Series};
pub use name::names;

use crate::svg::{Element, Svg};
use chart::{Chart, Layer, Mark};
use name::shortened;
use scale::Scale;

/// Metrics of a run and its name in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// Name in the legend; any text.
    pub name: String,
    /// Metrics to plot.
    pub metrics: Metrics,
}

/// Returns the plot of `runs` in common charts. Two or more runs get a legend.
///
/// Every coordinate is a finite number for any metrics.
pub fn svg(runs: &[Curves]) -> String {
    Plot { runs }.draw()
}

/// Fonts: the system's, then common ones, then any.
const FONT: &str = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif";
/// Width of the plot, in pixels.
const WIDTH: f64 = 880.0;
/// Space above the first chart or the legend; half of it is below the last chart.
const MARGIN: f64 = 18.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 20.0;
/// Left edge of the legend: that of the charts.
const LEGEND_LEFT: f64 = chart::LEFT;
/// Line colours that are distinct for colour-blind readers (Okabe and Ito, 2008), without yellow, on white.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Dashes that distinguish runs of the same colour.
const DASHES: [&str; 3] = ["", "7 3", "2 3"];

/// Line style of a run.
#[derive(Debug, Clone, Copy)]
struct Stroke {
    colour: &'static str,
    dashes: &'static str,
}

impl Stroke {
    fn for_run(run: usize) -> Self {
        Self {
            colour: COLOURS[run % COLOURS.len()],
            dashes: DASHES[run / COLOURS.len() % DASHES.len()],
        }
    }
}

impl Stroke {
    /// Adds the attributes of a line.
    fn on(self, element: Element<'_>) -> Element<'_> {
        let element = element.attr("stroke", self.colour);
        match self.dashes {
            "" => element,
            dashes => element.attr("stroke-dasharray", dashes),
        }
    }
}

struct Plot<'a> {
    runs: &'a [Curves],
}

impl Plot<'_> {
    fn charts(&self) -> [Chart<'_>; 3] {
        // All charts share one range of steps, so that the same step is at the same place.
        let steps: Vec<f64> = self
            .runs
            .iter()
            .flat_map(|run| run.metrics.steps())
            .map(|step| step as f64)
            .collect();
        let steps = Scale::steps(&steps);
        let layers = |mark: Mark, series: fn(&Metrics) -> &Series| {
            let runs = self.runs.iter().enumerate();
            runs.map(move |(run, curves)| Layer {
                series: series(&curves.metrics),
                stroke: Stroke::for_run(run),
                mark,
            })
        };
        let lines = |series| layers(Mark::Line, series).collect();
        // Validations are few and are drawn on top.
        let losses = layers(Mark::Line, |metrics| &metrics.loss).chain(layers(Mark::Circles, |metrics| &metrics.val_loss));
        [
            Chart::new("loss", steps, losses.collect(), Scale::decades),
            Chart::new("learning rate", steps, lines(|metrics| &metrics.lr), Scale::linear),
            Chart::new("gradient norm", steps, lines(|metrics| &metrics.grad_norm), Scale::linear),
        ]
    }

    fn legend(&self, svg: &mut Svg) {
        for (index, run) in self.legend_runs().iter().enumerate() {
            let y = MARGIN + LEGEND_LINE * index as f64;
            let (left, right) = (LEGEND_LEFT, LEGEND_LEFT + 26.0);
            let line = svg.element("path").attr("d", format_args!("M{left} {y}H{right}"));
            let line = line.attr("fill", "none").attr("stroke-width", "2.5");
            Stroke::for_run(index).on(line).close();
            let name = svg.element("text").attr("x", right + 8.0).attr("y", y + 4.0);
            name.words(&shortened(&run.name));
        }
    }

    fn legend_runs(&self) -> &[Curves] {
        if self.runs.len() > 1 { self.runs } else { &[] }
    }

    fn draw(&self) -> String {
        let charts = self.charts();
        let top = MARGIN + LEGEND_LINE * self.legend_runs().len() as f64;
        let bottom = top + chart::HEIGHT * charts.len() as f64;
        let mut svg = Svg::new(WIDTH, bottom + MARGIN / 2.0, FONT);
        self.legend(&mut svg);
        for (index, chart) in charts.iter().enumerate() {
            let y = top + chart::HEIGHT * index as f64;
            svg.element("g").attr("transform", format_args!("translate(0 {y})")).open();
            chart.draw(&mut svg);
            svg.end("g");
        }
        let middle = chart::LEFT + chart::PLOT_WIDTH / 2.0;
        let steps = svg.element("text").attr("x", middle).attr("y", bottom - 4.0);
        steps.attr("text-anchor", "middle").words("step");
        svg.finish()
    }
}
