//! Figures of layouts, drawn from the code that the ranks run by.

use neva_layout::{ParamSpec, Pass, Timeline};
use neva_track::svg::Svg;

/// Height of a row, in pixels.
const ROW: f64 = 28.0;
/// Width of the names in front of the rows.
const MARGIN: f64 = 72.0;
/// Colour of names and frames.
const GREY: &str = "#888";
/// Forward passes, one shade for each chunk.
const FORWARD: [&str; 4] = ["#4c78a8", "#9ecae9", "#2f4b6a", "#c6dbef"];
/// Backward passes.
const BACKWARD: [&str; 4] = ["#f58518", "#ffbf79", "#b85f0a", "#fdd9b5"];

/// Draws a row for each stage, and a box for each pass with the number of its microbatch; forward passes are blue,
/// backward passes orange, each chunk in a shade of its own. `unit` is the width of a unit of time.
pub(crate) fn timeline_svg(timeline: &Timeline, title: &str, unit: f64) -> String {
    let (width, height) = (MARGIN + timeline.end * unit + 8.0, ROW * (timeline.spans.len() as f64 + 1.0) + 8.0);
    let mut svg = document(title, width, height);
    for (stage, spans) in timeline.spans.iter().enumerate() {
        let y = ROW * (stage as f64 + 1.0);
        text(&mut svg, 4.0, y + 18.0, "start", GREY, &format!("stage {stage}"));
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
    svg.finish()
}

/// Draws what each of `tp` tensor-parallel ranks holds of some parameters: the whole matrix as a frame, the rank's shard
/// filled.
pub(crate) fn shards_svg(title: &str, specs: &[ParamSpec], tp: usize) -> String {
    const SIDE: f64 = 56.0;
    const STEP: f64 = 150.0;
    let width = MARGIN + STEP * specs.len() as f64;
    let mut svg = document(title, width, ROW + (SIDE + 30.0) * tp as f64 + 24.0);
    for (column, spec) in specs.iter().enumerate() {
        let x = MARGIN + STEP * column as f64;
        let name = spec.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
        let name = format!("{name} ({:?})", spec.cut).to_lowercase();
        text(&mut svg, x, ROW + 10.0, "start", GREY, &name);
        let [rows, columns] = spec.matrix().map(|size| size as f64);
        for rank in 0..tp {
            let y = ROW + 20.0 + (SIDE + 30.0) * rank as f64;
            let window = spec.window(rank, tp);
            let (left, top) = (window.columns.start as f64 / columns * SIDE, window.rows.start as f64 / rows * SIDE);
            let (wide, high) = (window.columns.len() as f64 / columns * SIDE, window.rows.len() as f64 / rows * SIDE);
            rectangle(&mut svg, (x + left, y + top), (wide, high), FORWARD[rank % 2]);
            let frame = svg
                .element("rect")
                .attr("x", x)
                .attr("y", y)
                .attr("width", SIDE)
                .attr("height", SIDE);
            frame.attr("fill", "none").attr("stroke", GREY).close();
        }
    }
    for rank in 0..tp {
        let y = ROW + 52.0 + (SIDE + 30.0) * rank as f64;
        text(&mut svg, 4.0, y, "start", GREY, &format!("rank {rank}"));
    }
    svg.finish()
}

/// Draws rows of labelled boxes: `rows` are a name and, for each box, its label and which of the colours it has.
pub(crate) fn boxes_svg(title: &str, rows: &[(String, Vec<(String, usize)>)]) -> String {
    const WIDE: f64 = 44.0;
    let longest = rows.iter().map(|(_, boxes)| boxes.len()).max().unwrap_or(0);
    let mut svg = document(title, MARGIN + WIDE * longest as f64 + 8.0, ROW * (rows.len() as f64 + 1.0) + 8.0);
    for (row, (name, boxes)) in rows.iter().enumerate() {
        let y = ROW * (row as f64 + 1.0);
        text(&mut svg, 4.0, y + 18.0, "start", GREY, name);
        for (column, (label, colour)) in boxes.iter().enumerate() {
            let x = MARGIN + WIDE * column as f64;
            let colours = [FORWARD[0], BACKWARD[0], FORWARD[1], BACKWARD[1], "#bbbbbb"];
            rectangle(&mut svg, (x, y), (WIDE - 1.0, ROW - 4.0), colours[colour % colours.len()]);
            text(&mut svg, x + WIDE / 2.0, y + 17.0, "middle", "#111", label);
        }
    }
    svg.finish()
}

fn document(title: &str, width: f64, height: f64) -> Svg {
    let mut svg = Svg::new(width.round(), height.round(), "sans-serif");
    text(&mut svg, 4.0, 16.0, "start", GREY, title);
    svg
}

fn rectangle(svg: &mut Svg, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
    let place = svg
        .element("rect")
        .attr("x", format_args!("{x:.1}"))
        .attr("y", format_args!("{y:.1}"));
    let sized = place
        .attr("width", format_args!("{width:.1}"))
        .attr("height", format_args!("{height:.1}"));
    sized.attr("fill", fill).close();
}

fn text(svg: &mut Svg, x: f64, y: f64, anchor: &str, fill: &str, words: &str) {
    let place = svg
        .element("text")
        .attr("x", format_args!("{x:.1}"))
        .attr("y", format_args!("{y:.1}"));
    place.attr("text-anchor", anchor).attr("fill", fill).words(words);
}
