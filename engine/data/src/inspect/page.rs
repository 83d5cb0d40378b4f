//! A web page of samples: one file, without scripts and without requests.

use std::fmt::{self, Write as _};

use super::{InspectedData, InspectedImage, InspectedSample, Piece};

const STYLE: &str = include_str!("page.css");

/// Returns a page that shows the samples of `data`. `title` is its heading.
#[must_use]
pub fn page(title: &str, data: &InspectedData) -> String {
    let mut html = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut html, title, data);
    html
}

fn write_page(html: &mut String, title: &str, data: &InspectedData) -> fmt::Result {
    let title = Text(title);
    writeln!(html, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">")?;
    writeln!(html, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(html, "<meta name=\"color-scheme\" content=\"light dark\">")?;
    writeln!(
        html,
        "<title>{title}</title>\n<style>\n{STYLE}</style>\n<header>\n<h1>{title}</h1>\n<dl>"
    )?;
    let tokenizer = data.tokenizer.as_deref().unwrap_or("that of the model");
    for (name, value) in [
        ("data", data.files.join(", ")),
        (
            "samples",
            format!("{} of {} records", Grouped(data.samples.len()), Grouped(data.records)),
        ),
        ("template", data.template.clone()),
        ("tokenizer", tokenizer.to_owned()),
        ("seq_length", format!("{} positions", Grouped(data.seq_length))),
        ("an image", format!("{} positions", Grouped(data.image_positions))),
    ] {
        writeln!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", Text(&value))?;
    }
    writeln!(html, "</dl>\n{LEGEND}</header>\n<main>")?;
    for (number, sample) in data.samples.iter().enumerate() {
        write_sample(html, number + 1, sample, data.seq_length)?;
    }
    writeln!(html, "</main>\n</html>")
}

const LEGEND: &str = "\
<p class=\"legend\"><span><b class=\"t a\">token</b> the model reads it</span>\
<span><b class=\"t l\">token</b> label: the model learns to write it</span>\
<span><b class=\"i\">image 1</b> positions of an image</span>\
<span><b class=\"t c\">token</b> cut at seq_length</span>\
<span class=\"hint\">Point at a token to see its id and position.</span></p>
";

fn write_sample(html: &mut String, number: usize, sample: &InspectedSample, seq_length: usize) -> fmt::Result {
    let id = sample.id.as_ref().map(|id| format!("id {id}")).unwrap_or_default();
    writeln!(html, "<article id=\"s{number}\">\n<h2><a href=\"#s{number}\">{number}</a>")?;
    writeln!(
        html,
        "<span>{}: record {}</span> <small>{}</small></h2>",
        Text(&sample.file),
        sample.record,
        Text(&id)
    )?;
    for (kind, reason) in &sample.problems {
        writeln!(html, "<p class=\"problem\"><b>{kind}</b> {}</p>", Text(reason))?;
    }
    if sample.positions > 0 {
        write_counts(html, sample, seq_length)?;
    }
    writeln!(html, "<div class=\"sample\">")?;
    if !sample.images.is_empty() {
        writeln!(html, "<div class=\"images\">")?;
        for (index, image) in sample.images.iter().enumerate() {
            write_image(html, index + 1, image)?;
        }
        writeln!(html, "</div>")?;
    }
    if !sample.pieces.is_empty() {
        write!(html, "<div class=\"text\">")?;
        for (index, piece) in sample.pieces.iter().enumerate() {
            write_piece(html, index, piece)?;
        }
        writeln!(html, "</div>")?;
    }
    writeln!(html, "</div>\n</article>")
}

fn write_counts(html: &mut String, sample: &InspectedSample, seq_length: usize) -> fmt::Result {
    let InspectedSample {
        positions,
        image_positions,
        labels,
        kept_labels,
        ..
    } = *sample;
    let text = positions - image_positions;
    writeln!(html, "<ul class=\"counts\"><li><b>{}</b> positions</li>", Grouped(positions))?;
    writeln!(
        html,
        "<li><b>{}</b> of text</li><li><b>{}</b> of images</li>",
        Grouped(text),
        Grouped(image_positions)
    )?;
    writeln!(html, "<li class=\"label\"><b>{}</b> labels</li>", Grouped(kept_labels))?;
    if positions > seq_length {
        let lost = labels - kept_labels;
        let cut = positions - seq_length;
        writeln!(
            html,
            "<li class=\"cut\"><b>{}</b> positions and <b>{}</b> labels cut</li>",
            Grouped(cut),
            Grouped(lost)
        )?;
    }
    if kept_labels == 0 {
        writeln!(html, "<li class=\"cut\">the model learns nothing from it</li>")?;
    }
    writeln!(html, "</ul>")
}

fn write_image(html: &mut String, number: usize, image: &InspectedImage) -> fmt::Result {
    let path = &image.path;
    let name = path.rsplit('/').next().unwrap_or_default();
    if image.width == 0 {
        return writeln!(
            html,
            "<figure><div class=\"missing\">image {number}</div><figcaption>{}</figcaption></figure>",
            Text(path)
        );
    }
    let (width, height) = (image.width, image.height);
    writeln!(html, "<figure><img src=\"{}\" alt=\"image {number}\">", image.original_png)?;
    writeln!(
        html,
        "<figcaption title=\"{}\">image {number}: {}<br>{width} × {height}</figcaption></figure>",
        Text(path),
        Text(name)
    )?;
    for ((width, height), png) in image.processed.iter().zip(&image.processed_png) {
        writeln!(
            html,
            "<span class=\"arrow\">→</span><figure><img class=\"processed\" src=\"{png}\" alt=\"image {number}, processed\">"
        )?;
        writeln!(html, "<figcaption>as the model gets it<br>{width} × {height}</figcaption></figure>")?;
    }
    Ok(())
}

fn write_piece(html: &mut String, index: usize, piece: &Piece) -> fmt::Result {
    let Piece {
        id,
        text,
        position,
        len,
        image,
        is_label,
        is_cut,
    } = piece;
    if let Some(image) = image {
        let class = if *is_cut { "i c" } else { "i" };
        let last = (position + len).saturating_sub(1);
        return write!(
            html,
            "<b class=\"{class}\" title=\"token {index}: image {}, positions {position} to {last}\">image {} · {len} positions</b>",
            image + 1,
            image + 1
        );
    }
    let mut class = if *is_label { "t l" } else { "t" }.to_owned();
    if *is_cut {
        class.push_str(" c");
    } else if index.is_multiple_of(2) {
        // Neighbours have different shades.
        class.push_str(" a");
    }
    let what = match (is_cut, is_label) {
        (true, _) => ", cut",
        (_, true) => ", label",
        _ => "",
    };
    write!(
        html,
        "<span class=\"{class}\" title=\"token {index}: id {id}, position {position}{what}\">"
    )?;
    if text.is_empty() {
        write!(html, "<i>·</i>")?;
    }
    for (line, part) in text.split('\n').enumerate() {
        if line > 0 {
            writeln!(html, "<i>↵</i>")?;
        }
        write!(html, "{}", Text(part))?;
    }
    write!(html, "</span>")
}

/// A text in HTML.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                // Characters that would reorder or hide the text around them.
                '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                    write!(f, "\\u{{{:x}}}", u32::from(c))?;
                }
                c if c.is_control() && c != '\t' => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A number with its digits in groups of three.
struct Grouped(usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}
