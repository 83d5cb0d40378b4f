//! The report of a check as text.

use std::fmt;

use neva_data::{CheckReport, ImageReport, KindReport, LengthReport, Level};

/// Width of the longest bar of the histogram.
const BAR: u64 = 32;

/// The report, for people.
pub(super) struct CheckText<'a>(pub(super) &'a CheckReport);

impl fmt::Display for CheckText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let speed = report.records as f64 / report.seconds.max(1e-3);
        let took = if report.cached {
            "unchanged since an earlier check".to_owned()
        } else {
            format!(
                "{:.1} s, {} a second, {}",
                report.seconds,
                Count(speed as u64),
                Plural(report.workers as u64, "worker")
            )
        };
        writeln!(f, "checked {} ({took})", Plural(report.records, "record"))?;
        for file in &report.files {
            let split = if file.is_validation { ", for validation" } else { "" };
            writeln!(f, "  {}: {}{split}", file.file, Plural(file.records, "record"))?;
        }
        images(f, &report.images)?;
        lengths(f, &report.lengths)?;
        if !report.notes.is_empty() {
            writeln!(f, "\n{}", Plural(report.notes.len() as u64, "note"))?;
            report.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        }
        for level in [Level::Error, Level::Warning] {
            let kinds: Vec<_> = report.problems.iter().filter(|kind| kind.level == level).collect();
            let (count, word) = match level {
                Level::Error => (report.errors, "error"),
                Level::Warning => (report.warnings, "warning"),
            };
            if kinds.is_empty() {
                continue;
            }
            writeln!(f, "\n{}", Plural(count, word))?;
            kinds.into_iter().try_for_each(|kind| problems(f, kind))?;
        }
        if let Some(file) = &report.skip_list {
            write!(f, "\nskip list     {} ({})", file.display(), Plural(report.skipped, "record"))?;
        }
        if let Some(file) = &report.length_index {
            write!(f, "\nlength index  {}", file.display())?;
        }
        match (report.errors, report.warnings) {
            (0, 0) => write!(f, "\nok: no problem was found"),
            (0, warnings) => write!(f, "\nok: no error, {}", Plural(warnings, "warning")),
            (errors, warnings) => write!(
                f,
                "\nfailed: {} in {}, {}",
                Plural(errors, "error"),
                Plural(report.broken_records, "record"),
                Plural(warnings, "warning")
            ),
        }
    }
}

fn images(f: &mut fmt::Formatter<'_>, images: &ImageReport) -> fmt::Result {
    if images.check == "skipped" {
        return writeln!(f, "\nimages     {}, not looked at", Count(images.uses));
    }
    write!(f, "\nimages     {} of {}", Plural(images.uses, "use"), Plural(images.files, "file"))?;
    if images.uses == 0 {
        return writeln!(f);
    }
    write!(f, ", {}", Bytes(images.bytes))?;
    for (index, (format, count)) in images.formats.iter().enumerate() {
        write!(f, "{}{} {format}", if index == 0 { ": " } else { ", " }, Count(*count))?;
    }
    if let (Some((w1, h1)), Some((w2, h2))) = (images.smallest, images.largest) {
        write!(f, "; {w1} x {h1}")?;
        if (w1, h1) != (w2, h2) {
            write!(f, " to {w2} x {h2}")?;
        }
        f.write_str(" pixels")?;
    }
    let how = match images.check.as_str() {
        "decoded" => "decoded",
        _ => "headers read, pixels not decoded",
    };
    writeln!(f, "\n           {how}")
}

fn lengths(f: &mut fmt::Formatter<'_>, lengths: &LengthReport) -> fmt::Result {
    let LengthReport {
        seq_length,
        samples,
        text_positions,
        image_positions,
        labels,
        labels_cut,
        truncated,
        min,
        mean,
        median,
        p95,
        max,
        histogram,
    } = lengths;
    if *samples == 0 {
        return writeln!(f, "lengths    no record can be used");
    }
    writeln!(
        f,
        "lengths    {} of text, {} of images, {}",
        Plural(*text_positions, "position"),
        Count(*image_positions),
        Plural(*labels, "label")
    )?;
    writeln!(
        f,
        "           a sample: {} to {} positions, mean {mean:.0}, half up to {}, 95 % up to {}",
        Count(*min),
        Count(*max),
        Count(*median),
        Count(*p95)
    )?;
    let share = *truncated as f64 * 100.0 / *samples as f64;
    writeln!(
        f,
        "           cut at seq_length {}: {} ({share:.2} %), {}\n",
        Count(*seq_length),
        Plural(*truncated, "sample"),
        Plural(*labels_cut, "label")
    )?;
    let most = histogram.iter().map(|range| range.samples).max().unwrap_or(0).max(1);
    for range in histogram {
        let name = match range.to {
            Some(to) => format!("{:>9} to {:>7}", Count(range.from), Count(to)),
            None => format!("{:>9}    {:>7}", "above", Count(range.from.saturating_sub(1))),
        };
        // A range with samples has a bar.
        let width = (range.samples * BAR).div_ceil(most) as usize;
        let bar = "█".repeat(width);
        let line = format!("  {name}  {:>9}  {bar}", Count(range.samples).to_string());
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn problems(f: &mut fmt::Formatter<'_>, kind: &KindReport) -> fmt::Result {
    writeln!(f, "  {}: {}", kind.kind, Count(kind.count))?;
    for finding in &kind.first {
        writeln!(f, "    {finding}")?;
    }
    let more = kind.count.saturating_sub(kind.first.len() as u64);
    if more > 0 && !kind.first.is_empty() {
        writeln!(f, "    and {} more", Count(more))?;
    }
    writeln!(f, "    help: {}", kind.help)
}

/// A number with its digits in groups of three.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut grouped = String::with_capacity(digits.len() * 4 / 3 + 1);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// A count of things.
struct Plural(u64, &'static str);

impl fmt::Display for Plural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, word) = self;
        write!(f, "{} {word}{}", Count(*count), if *count == 1 { "" } else { "s" })
    }
}

/// A number of bytes.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
        let (mut value, mut unit) = (self.0 as f64 / 1e3, UNITS[0]);
        for next in &UNITS[1..] {
            if value >= 1000.0 {
                (value, unit) = (value / 1e3, next);
            }
        }
        write!(f, "{value:.1} {unit}")
    }
}
