//! Check of one record.

use super::{
    content::{hash, record_hash},
    image_files::{ImageFile, ImageFiles, Verdict},
    kind::{Kind, Level},
    options::ImageCheck,
    probe::{ImageRef, Lengths, Parsed, Probe, Source},
};
use crate::{conversation::Conversation, llava::RecordCounts};

/// Result of the check of one record.
#[derive(Debug, Default)]
pub(super) struct CheckedRecord {
    pub(super) index: usize,
    pub(super) id: Option<String>,
    /// Kind, field and description of each problem.
    pub(super) problems: Vec<(Kind, Option<String>, String)>,
    /// Hash of images and messages.
    pub(super) content: Option<u64>,
    /// Hash of the id.
    pub(super) id_hash: Option<u64>,
    /// Lengths of the sample; `None` if the record cannot be used.
    pub(super) lengths: Option<Lengths>,
    /// Number of uses of images.
    pub(super) images: usize,
    /// 1 for each change with which the training takes the record.
    pub(super) counts: RecordCounts,
    /// Image files that no record named before.
    pub(super) new_images: Vec<ImageFile>,
}

/// Checks the record at `index` of `source`.
pub(super) fn check_record(probe: &Probe, images: &ImageFiles, check: ImageCheck, source: &Source, index: usize) -> CheckedRecord {
    let mut checked = CheckedRecord {
        index,
        ..CheckedRecord::default()
    };
    let value = match source.value(index) {
        Ok(value) => value,
        Err((kind, reason)) => {
            checked.problems.push((kind, None, reason));
            return checked;
        }
    };
    let Parsed {
        id,
        content,
        problems,
        counts,
    } = probe.parse(source, value);
    checked.counts = counts;
    checked.id_hash = id.as_ref().map(|id| hash([id.as_bytes()]));
    checked.id = id;
    checked.problems = problems;
    if let Some((files, conversation)) = content {
        checked.content = Some(record_hash(files.iter().map(ImageRef::key), &conversation));
        checked.images = files.len();
        let mut sizes = vec![None; files.len()];
        if check != ImageCheck::Skip {
            sizes = check_images(images, &files, &mut checked);
        }
        let tiles = files.iter().zip(sizes).map(|(image, size)| probe.num_tiles(image, size));
        let tiles: Vec<usize> = tiles.collect();
        check_text(probe, &conversation, &tiles, &mut checked);
    }
    checked
}

/// Returns width and height of each image that can be read.
fn check_images(images: &ImageFiles, files: &[ImageRef], checked: &mut CheckedRecord) -> Vec<Option<(usize, usize)>> {
    let size = |image| {
        let (verdict, new) = images.check(image);
        checked.new_images.extend(new);
        match verdict {
            Verdict::Good(header) => Some((header.width as usize, header.height as usize)),
            Verdict::Bad(kind, reason) => {
                checked.problems.push((kind, Some("image".to_owned()), reason.to_string()));
                None
            }
        }
    };
    files.iter().map(size).collect()
}

fn check_text(probe: &Probe, conversation: &Conversation, tiles: &[usize], checked: &mut CheckedRecord) {
    let mut report = |kind, reason| checked.problems.push((kind, Some("conversations".to_owned()), reason));
    for (index, turn) in conversation.turns.iter().enumerate() {
        let answer = turn.answer.as_deref().unwrap_or_default();
        if answer.trim().is_empty() {
            report(Kind::EmptyAnswer, format!("the answer of message {} has no text", index * 2 + 1));
        }
        if turn.question.contains('\u{fffd}') || answer.contains('\u{fffd}') {
            report(
                Kind::ReplacementCharacter,
                format!("message {} or its answer has U+FFFD", index * 2),
            );
        }
    }
    let encoded = match probe.encode(conversation) {
        Ok((_, encoded)) => encoded,
        Err((kind, reason)) => return report(kind, reason),
    };
    let lengths = match probe.lengths(encoded, tiles) {
        Ok(lengths) => lengths,
        Err(reason) => return report(Kind::Tokens, reason),
    };
    let seq_length = probe.seq_length();
    if lengths.positions > seq_length {
        report(
            Kind::Truncated,
            format!(
                "{} positions, {} of them of images, but seq_length is {seq_length}: {} of {} labels remain",
                lengths.positions, lengths.image_positions, lengths.kept_labels, lengths.labels
            ),
        );
    }
    if lengths.labels == 0 {
        report(Kind::NoLabel, "no token is a label".to_owned());
    } else if lengths.kept_labels == 0 {
        report(
            Kind::LabelsCut,
            format!(
                "all {} labels are behind position {seq_length}, where the sample is cut",
                lengths.labels
            ),
        );
    }
    if checked.problems.iter().all(|(kind, ..)| kind.level() == Level::Warning) {
        checked.lengths = Some(lengths);
    }
}
