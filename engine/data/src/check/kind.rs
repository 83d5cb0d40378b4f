//! Kinds of problems that a check reports.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kind of a problem. Errors end a run that reads the record; warnings do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A file cannot be read.
    Unreadable,
    /// A file or a record is not UTF-8.
    Encoding,
    /// A file or a record is not JSON.
    Json,
    /// A file has no record.
    NoRecords,
    /// A record is not an object.
    NotAnObject,
    /// A field of a record is not supported or has a wrong type.
    Field,
    /// The conversation of a record is missing, empty or not a list.
    Conversations,
    /// A message has no role or no text.
    Message,
    /// The roles of a conversation are unknown or in a wrong order.
    Roles,
    /// The image field of a record is not a file name or a list of file names.
    ImageField,
    /// The numbers of images and of `<image>` marks differ.
    ImageCount,
    /// A record has an image, the model no vision encoder.
    ImageUnwanted,
    /// An image file does not exist.
    ImageMissing,
    /// An image file cannot be read.
    ImageUnreadable,
    /// An image file has no bytes.
    ImageEmpty,
    /// The contents of an image file are no image of a known format.
    ImageFormat,
    /// An image file is broken.
    ImageBroken,
    /// An image file ends too early.
    ImageTruncated,
    /// An image is too large, too narrow or without pixels.
    ImageSize,
    /// The conversation template cannot render a conversation.
    Template,
    /// The tokenizer cannot encode a text.
    Tokens,
    /// No record of the training data has a label.
    Unlabelled,
    /// A sample has no label at all.
    NoLabel,
    /// All labels of a sample are behind the cut at `seq_length`.
    LabelsCut,
    /// A sample is longer than `seq_length`.
    Truncated,
    /// An answer has no text.
    EmptyAnswer,
    /// A record has the same images and messages as an earlier one.
    Duplicate,
    /// A record has the `id` of an earlier record of its file.
    DuplicateId,
    /// A validation record is a training record, too.
    InBothSplits,
    /// A text has U+FFFD, which stands for bytes that a program could not decode.
    ReplacementCharacter,
}

/// Severity of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A run that reads the record fails or, if it is told to, skips it.
    Error,
    /// A run uses the record.
    Warning,
}

impl Kind {
    /// All kinds, errors first.
    pub const ALL: &[Self] = &[
        Self::Unreadable,
        Self::Encoding,
        Self::Json,
        Self::NoRecords,
        Self::NotAnObject,
        Self::Field,
        Self::Conversations,
        Self::Message,
        Self::Roles,
        Self::ImageField,
        Self::ImageCount,
        Self::ImageUnwanted,
        Self::ImageMissing,
        Self::ImageUnreadable,
        Self::ImageEmpty,
        Self::ImageFormat,
        Self::ImageBroken,
        Self::ImageTruncated,
        Self::ImageSize,
        Self::Template,
        Self::Tokens,
        Self::Unlabelled,
        Self::NoLabel,
        Self::LabelsCut,
        Self::Truncated,
        Self::EmptyAnswer,
        Self::Duplicate,
        Self::DuplicateId,
        Self::InBothSplits,
        Self::ReplacementCharacter,
    ];

    /// Returns the kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Returns the name, as in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Returns advice: what to change.
    #[must_use]
    pub fn help(self) -> &'static str {
        self.row().1
    }

    /// Returns the severity.
    #[must_use]
    pub fn level(self) -> Level {
        if self < Self::NoLabel { Level::Error } else { Level::Warning }
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Unreadable => ("unreadable", "check that the file exists and that you may read it"),
            Self::Encoding => ("encoding", "JSON must be UTF-8: convert the file as the message says"),
            Self::Json => ("json", "correct the file as the message says"),
            Self::NoRecords => ("no_records", "remove the file from `paths`, or write records into it"),
            Self::NotAnObject => ("not_an_object", "write a record as `{\"image\": .., \"conversations\": [..]}`"),
            Self::Field => ("field", "correct or remove the field"),
            Self::Conversations => (
                "conversations",
                "write `\"conversations\": [{\"from\": \"human\", \"value\": ..}, {\"from\": \"gpt\", \"value\": ..}]`",
            ),
            Self::Message => (
                "message",
                "give each message a role and a text: `{\"from\": \"human\", \"value\": \"..\"}`",
            ),
            Self::Roles => (
                "roles",
                "let `human` and `gpt` alternate; the first message is a question, the last one an answer",
            ),
            Self::ImageField => ("image_field", "write `\"image\": \"FILE\"` or `\"image\": [\"FILE\", ..]`"),
            Self::ImageCount => ("image_count", "write `<image>` once for each image, where the model should see it"),
            Self::ImageUnwanted => ("image_unwanted", "remove the images, or train a model with a vision encoder"),
            Self::ImageMissing => (
                "image_missing",
                "copy the file, correct its name, or set `data_config.image_folder`",
            ),
            Self::ImageUnreadable => ("image_unreadable", "check that you may read the file"),
            Self::ImageEmpty => ("image_empty", "download or copy the file again"),
            Self::ImageFormat => (
                "image_format",
                "convert the file to JPEG or PNG; a web page saved as an image is a failed download",
            ),
            Self::ImageBroken => ("image_broken", "download or copy the file again"),
            Self::ImageTruncated => ("image_truncated", "download or copy the file again: the rest of it is missing"),
            Self::ImageSize => ("image_size", "scale or crop the image"),
            Self::Template => ("template", "change the record, or `data_config.conv_template`"),
            Self::Tokens => ("tokens", "change the text, or `tokenizer`"),
            Self::Unlabelled => ("unlabelled", "raise `seq_length`, or check that records have answers"),
            Self::NoLabel => (
                "no_label",
                "the model learns nothing from these samples: give them answers, or skip them",
            ),
            Self::LabelsCut => (
                "labels_cut",
                "the model learns nothing from these samples: raise `seq_length`, or skip them",
            ),
            Self::Truncated => ("truncated", "raise `seq_length`, or shorten the texts"),
            Self::EmptyAnswer => (
                "empty_answer",
                "the model learns to answer nothing: give these questions answers, or skip the records",
            ),
            Self::Duplicate => ("duplicate", "remove repeated records, or skip them"),
            Self::DuplicateId => (
                "duplicate_id",
                "nothing depends on ids; check that a file was not concatenated twice",
            ),
            Self::InBothSplits => (
                "in_both_splits",
                "remove the record from one of `paths` and `val_paths`, or its loss says too little",
            ),
            Self::ReplacementCharacter => (
                "replacement_character",
                "a program lost characters of this text: convert the original again",
            ),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
