//! Curves of training runs as one SVG picture: loss of training and validation, learning rate and gradient norm
//! over steps.
//!
//! ```text
//! metrics.jsonl --read--> Curves --svg--> text --write--> curves.svg
//! ```
//!
//! [`svg`] is a function of its input alone: the same metrics give the same bytes on every machine. Only
//! `file` touches the disk.

mod chart;
mod curve;
mod file;
mod metrics;
mod name;
mod scale;

use std::fmt;

pub use file::{CURVES_FILE, draw};
pub use metrics::{Metrics, Series};
pub use name::names;

use chart::{Chart, Layer, Mark};
use name::Escaped;
use scale::Scale;

/// Metrics of a run and the name that the legend gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    /// Name in the legend; any text.
    pub name: String,
    /// What is drawn.
    pub metrics: Metrics,
}

/// The picture of `runs`, over each other where there are several. A legend is drawn for two or more.
///
/// Every coordinate in it is a finite number, whatever the metrics are.
pub fn svg(runs: &[Curves]) -> String {
    Picture { runs }.to_string()
}

/// Width of the picture, in pixels.
const WIDTH: f64 = 880.0;
/// Space above the first chart or the legend; half of it is below the last chart.
const MARGIN: f64 = 18.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 20.0;
/// Left edge of the legend: that of the charts.
const LEGEND_LEFT: f64 = chart::LEFT;
/// Line colours that stay apart for colour-blind eyes (Okabe and Ito, 2008); yellow is left out on white.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Dashes tell runs of the same colour apart.
const DASHES: [&str; 3] = ["", "7 3", "2 3"];

/// How the lines of a run are drawn.
#[derive(Debug, Clone, Copy)]
struct Stroke {
    colour: &'static str,
    dashes: &'static str,
}

impl Stroke {
    fn of(run: usize) -> Self {
        Self {
            colour: COLOURS[run % COLOURS.len()],
            dashes: DASHES[run / COLOURS.len() % DASHES.len()],
        }
    }
}

impl fmt::Display for Stroke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stroke=\"{}\"", self.colour)?;
        match self.dashes {
            "" => Ok(()),
            dashes => write!(f, " stroke-dasharray=\"{dashes}\""),
        }
    }
}

struct Picture<'a> {
    runs: &'a [Curves],
}

impl Picture<'_> {
    fn charts(&self) -> [Chart<'_>; 3] {
        // One range of steps for all charts, so that what happens at once stands below each other.
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
                stroke: Stroke::of(run),
                mark,
            })
        };
        let lines = |series| layers(Mark::Line, series).collect();
        // Validations are few and lie on top.
        let losses = layers(Mark::Line, |metrics| &metrics.loss).chain(layers(Mark::Circles, |metrics| &metrics.val_loss));
        [
            Chart::new("loss", steps, losses.collect(), Scale::decades),
            Chart::new("learning rate", steps, lines(|metrics| &metrics.lr), Scale::linear),
            Chart::new("gradient norm", steps, lines(|metrics| &metrics.grad_norm), Scale::linear),
        ]
    }

    fn legend(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.legend_runs().iter().enumerate() {
            let y = MARGIN + LEGEND_LINE * index as f64;
            let (left, right) = (LEGEND_LEFT, LEGEND_LEFT + 26.0);
            writeln!(
                f,
                "<path d=\"M{left} {y}H{right}\" fill=\"none\" stroke-width=\"2.5\" {}/>",
                Stroke::of(index)
            )?;
            writeln!(f, "<text x=\"{}\" y=\"{}\">{}</text>", right + 8.0, y + 4.0, Escaped(&run.name))?;
        }
        Ok(())
    }

    fn legend_runs(&self) -> &[Curves] {
        if self.runs.len() > 1 { self.runs } else { &[] }
    }
}

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let charts = self.charts();
        let top = MARGIN + LEGEND_LINE * self.legend_runs().len() as f64;
        let bottom = top + chart::HEIGHT * charts.len() as f64;
        let height = bottom + MARGIN / 2.0;
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">"
        )?;
        // A viewer with a dark page would else show dark text on it.
        writeln!(f, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>")?;
        self.legend(f)?;
        for (index, chart) in charts.iter().enumerate() {
            writeln!(f, "<g transform=\"translate(0 {})\">", top + chart::HEIGHT * index as f64)?;
            write!(f, "{chart}")?;
            writeln!(f, "</g>")?;
        }
        writeln!(
            f,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">step</text>",
            chart::LEFT + chart::PLOT_WIDTH / 2.0,
            bottom - 4.0
        )?;
        writeln!(f, "</svg>")
    }
}
