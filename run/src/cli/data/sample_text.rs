//! Samples as text for a terminal.

use std::fmt::Write as _;

use neva_data::{InspectedData, InspectedImage, InspectedSample, Piece};

use crate::config::visible;

/// Appearance of samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Colours instead of brackets.
    pub(super) colours: bool,
    /// Print token ids.
    pub(super) ids: bool,
}

/// Part of a sample's text with one appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Label,
    Cut,
    Image,
}

impl Look {
    fn of(piece: &Piece) -> Self {
        match piece {
            Piece { is_cut: true, .. } => Self::Cut,
            Piece { image: Some(_), .. } => Self::Image,
            Piece { is_label: true, .. } => Self::Label,
            _ => Self::Plain,
        }
    }

    /// Returns the text before and after such a part.
    fn marks(self, colours: bool) -> (&'static str, &'static str) {
        match (self, colours) {
            (Self::Plain, _) | (Self::Image, false) => ("", ""),
            (Self::Label, true) => ("\x1b[1;32m", "\x1b[0m"),
            (Self::Cut, true) => ("\x1b[9;31m", "\x1b[0m"),
            (Self::Image, true) => ("\x1b[36m", "\x1b[0m"),
            (Self::Label, false) => ("{+", "+}"),
            (Self::Cut, false) => ("[-", "-]"),
        }
    }
}

/// Returns all samples as text. Control characters of the data are escaped.
pub(super) fn samples(data: &InspectedData, style: Style) -> String {
    let mut text = String::new();
    for sample in &data.samples {
        // Writing to a string does not fail.
        let _ = write_sample(&mut text, sample, data, style);
    }
    text
}

fn write_sample(text: &mut String, sample: &InspectedSample, data: &InspectedData, style: Style) -> std::fmt::Result {
    let (bold, normal) = if style.colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    writeln!(text, "{bold}{}{normal}", visible(&sample.name()))?;
    for (kind, reason) in &sample.problems {
        let (red, normal) = if style.colours { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        writeln!(text, "  {red}problem   {kind}: {}{normal}", visible(reason))?;
    }
    for (index, image) in sample.images.iter().enumerate() {
        writeln!(text, "  image {}   {}", index + 1, image_line(image, data.image_positions))?;
    }
    if sample.pieces.is_empty() {
        return writeln!(text);
    }
    let InspectedSample {
        positions,
        image_positions,
        labels,
        kept_labels,
        ..
    } = *sample;
    write!(
        text,
        "  positions {positions}: {} of text, {image_positions} of images; {kept_labels} labels",
        positions - image_positions
    )?;
    if positions > data.seq_length {
        write!(text, "; cut at {}: {} labels are lost", data.seq_length, labels - kept_labels)?;
    }
    writeln!(text, "\n")?;
    let parts = parts(sample, style.ids);
    for line in marked(&parts, style.colours).lines() {
        writeln!(text, "    {line}")?;
    }
    writeln!(text)
}

fn image_line(image: &InspectedImage, positions: usize) -> String {
    let path = &image.path;
    if image.width == 0 {
        return visible(path).into_owned();
    }
    let processed: Vec<_> = image
        .processed
        .iter()
        .map(|(width, height)| format!("{width} x {height}"))
        .collect();
    format!(
        "{}: {} x {} pixels, to the model {}, {positions} positions",
        visible(path),
        image.width,
        image.height,
        processed.join(", ")
    )
}

/// Returns the text in parts of one appearance.
fn parts(sample: &InspectedSample, ids: bool) -> Vec<(Look, String)> {
    let mut parts: Vec<(Look, String)> = Vec::new();
    for piece in &sample.pieces {
        let look = Look::of(piece);
        let mut shown = match piece.image {
            Some(image) => format!("<image {}: {} positions>", image + 1, piece.len),
            None => visible(&piece.text).into_owned(),
        };
        if ids && piece.image.is_none() {
            shown = format!("{shown}·{} ", piece.id);
        }
        match parts.last_mut() {
            Some((last, text)) if *last == look => text.push_str(&shown),
            _ => parts.push((look, shown)),
        }
    }
    parts
}

/// Returns the parts with their marks. A mark does not span lines, because lines are indented.
fn marked(parts: &[(Look, String)], colours: bool) -> String {
    let mut text = String::new();
    for (look, part) in parts {
        let (start, end) = look.marks(colours);
        for (index, line) in part.split('\n').enumerate() {
            if index > 0 {
                text.push('\n');
            }
            if !line.is_empty() {
                text.extend([start, line, end]);
            }
        }
    }
    text
}
