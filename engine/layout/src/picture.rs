//! Pictures of layouts, drawn from the code that the ranks run by: for the documents.

use crate::parameter::ParamSpec;
use crate::schedule::{Pass, Timeline};
use std::fmt::Write;

/// Height of a row, in pixels.
const ROW: f64 = 28.0;
/// Width of what stands in front of a row.
const MARGIN: f64 = 72.0;
/// Forward passes, one shade for each chunk.
const FORWARD: [&str; 4] = ["#4c78a8", "#9ecae9", "#2f4b6a", "#c6dbef"];
/// Backward passes.
const BACKWARD: [&str; 4] = ["#f58518", "#ffbf79", "#b85f0a", "#fdd9b5"];

impl Timeline {
    /// The timeline as SVG: a row for each stage, a box for each pass with the number of its micro-batch; forward
    /// passes are blue, backward passes orange, each chunk in a shade of its own; `unit` is the width of a unit of time.
    pub fn svg(&self, title: &str, unit: f64) -> String {
        let (width, height) = (MARGIN + self.end * unit + 8.0, ROW * (self.spans.len() as f64 + 1.0) + 8.0);
        let mut svg = head(title, width, height);
        for (stage, spans) in self.spans.iter().enumerate() {
            let y = ROW * (stage as f64 + 1.0);
            text(&mut svg, 4.0, y + 18.0, "start", "#888", &format!("stage {stage}"));
            for (action, start, end) in spans {
                let shades = match action.pass {
                    Pass::Forward => &FORWARD,
                    Pass::Backward => &BACKWARD,
                };
                let (x, wide) = (MARGIN + start * unit, (end - start) * unit);
                let shade = action.chunk % shades.len();
                rectangle(&mut svg, (x, y), (wide - 1.0, ROW - 4.0), shades[shade]);
                let ink = if shade % 2 == 0 { "#fff" } else { "#222" };
                text(&mut svg, x + wide / 2.0, y + 17.0, "middle", ink, &action.microbatch.to_string());
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// What each of `tp` tensor-parallel ranks holds of some parameters, as SVG: the whole matrix as a frame, the rank's
/// part filled.
pub fn shards_svg(title: &str, specs: &[ParamSpec], tp: usize) -> String {
    const SIDE: f64 = 56.0;
    const STEP: f64 = 150.0;
    let width = MARGIN + STEP * specs.len() as f64;
    let mut svg = head(title, width, ROW + (SIDE + 30.0) * tp as f64 + 24.0);
    for (column, spec) in specs.iter().enumerate() {
        let x = MARGIN + STEP * column as f64;
        let name = spec.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
        text(
            &mut svg,
            x,
            ROW + 10.0,
            "start",
            "#888",
            &format!("{name} ({:?})", spec.cut).to_lowercase(),
        );
        let [rows, columns] = spec.matrix().map(|size| size as f64);
        for rank in 0..tp {
            let y = ROW + 20.0 + (SIDE + 30.0) * rank as f64;
            let window = spec.window(rank, tp);
            let (left, top) = (window.columns.start as f64 / columns * SIDE, window.rows.start as f64 / rows * SIDE);
            let (wide, high) = (window.columns.len() as f64 / columns * SIDE, window.rows.len() as f64 / rows * SIDE);
            rectangle(&mut svg, (x + left, y + top), (wide, high), FORWARD[rank % 2]);
            let _ = writeln!(
                svg,
                r##"<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>"##
            );
        }
    }
    for rank in 0..tp {
        let y = ROW + 52.0 + (SIDE + 30.0) * rank as f64;
        text(&mut svg, 4.0, y, "start", "#888", &format!("rank {rank}"));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Rows of labelled boxes, as SVG: `rows` are a name and, for each box, its label and which of the colours it has.
pub fn boxes_svg(title: &str, rows: &[(String, Vec<(String, usize)>)]) -> String {
    const WIDE: f64 = 44.0;
    let longest = rows.iter().map(|(_, boxes)| boxes.len()).max().unwrap_or(0);
    let mut svg = head(title, MARGIN + WIDE * longest as f64 + 8.0, ROW * (rows.len() as f64 + 1.0) + 8.0);
    for (row, (name, boxes)) in rows.iter().enumerate() {
        let y = ROW * (row as f64 + 1.0);
        text(&mut svg, 4.0, y + 18.0, "start", "#888", name);
        for (column, (label, colour)) in boxes.iter().enumerate() {
            let x = MARGIN + WIDE * column as f64;
            let colours = [FORWARD[0], BACKWARD[0], FORWARD[1], BACKWARD[1], "#bbbbbb"];
            rectangle(&mut svg, (x, y), (WIDE - 1.0, ROW - 4.0), colours[colour % colours.len()]);
            text(&mut svg, x + WIDE / 2.0, y + 17.0, "middle", "#111", label);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(title: &str, width: f64, height: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="12">"#
    );
    svg.push('\n');
    text(&mut svg, 4.0, 16.0, "start", "#888", title);
    svg
}

fn rectangle(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, fill: &str, words: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{fill}">{words}</text>"#
    );
}
