//! Renders problems as miette reports with underlined characters.

use std::{error::Error, ffi::OsStr, fmt};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};
use textwrap::{WordSeparator, WordSplitter};

use super::{
    error::{ConfigError, ProblemKind},
    problems::Problems,
    visible::visible,
};

/// Columns of a report. Fixed, so that a report looks the same in a log and in a terminal.
const WIDTH: usize = 100;

/// Renders a [`ConfigError`] or [`Problems`] as a report for people; several problems follow each other. Control
/// characters are shown as escapes ([`visible`]).
pub fn render(diagnostic: &dyn Diagnostic, colour: bool) -> String {
    if let Some(related) = diagnostic.related() {
        let reports: Vec<_> = related.map(|diagnostic| render(diagnostic, colour)).collect();
        return reports.join("\n");
    }
    let theme = if colour {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    // Lines break at spaces only, so that a path can be copied as a whole.
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(WIDTH)
        .with_links(false)
        .with_break_words(false)
        .with_word_separator(WordSeparator::AsciiSpace)
        .with_word_splitter(WordSplitter::NoHyphenation);
    let shown = EscapedDiagnostic {
        message: Message::new(diagnostic),
        help: diagnostic.help().map(|help| visible(&help.to_string()).into_owned()),
        diagnostic,
    };
    let mut report = String::new();
    match handler.render_report(&mut report, &shown) {
        Ok(()) => report,
        // Writing to a string does not fail; if quoting the source fails, only the message is shown.
        Err(_) => shown.to_string(),
    }
}

/// A diagnostic with control characters escaped. The quoted source escapes its own.
#[derive(Debug)]
struct EscapedDiagnostic<'a> {
    message: Message,
    help: Option<String>,
    diagnostic: &'a dyn Diagnostic,
}

/// The message of an error and the messages of its causes.
#[derive(Debug)]
struct Message {
    text: String,
    cause: Option<Box<Self>>,
}

impl Message {
    fn new(error: &(impl Error + ?Sized)) -> Self {
        Self {
            text: visible(&error.to_string()).into_owned(),
            cause: error.source().map(|cause| Box::new(Self::new(cause))),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Message {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for EscapedDiagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

impl Error for EscapedDiagnostic<'_> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.message.source()
    }
}

impl Diagnostic for EscapedDiagnostic<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<_>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.diagnostic.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.diagnostic.labels()
    }
}

/// Returns whether a report has colour: in a terminal, unless `NO_COLOR` is set and not empty
/// (<https://no-color.org>).
pub fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.problem.help().map(|help| Box::new(help) as Box<_>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let (source, _) = self.origin.as_ref()?.span()?;
        Some(source.as_ref())
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (source, span) = self.origin.as_ref()?.span()?;
        let span = source.underlined(span);
        let label = LabeledSpan::new(Some(self.problem.label()), span.offset, span.len);
        Some(Box::new(std::iter::once(label)))
    }
}

impl Diagnostic for Problems {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self.errors() {
            [_] => None,
            several => Some(Box::new(several.iter().map(|error| error as &dyn Diagnostic))),
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.only()?.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.only()?.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.only()?.labels()
    }
}

impl Problems {
    /// Returns the problem if there is only one: it is then rendered without a list.
    fn only(&self) -> Option<&ConfigError> {
        match self.errors() {
            [only] => Some(only),
            _ => None,
        }
    }
}

impl ProblemKind {
    /// Returns the short label below the underlined characters. The headline holds the details.
    fn label(&self) -> String {
        match self {
            Self::WrongType { expected, .. } => format!("expected {expected}"),
            Self::OutOfRange { min, max, .. } => format!("expected {min} to {max}"),
            Self::Length { expected, .. } => format!("expected {expected} items"),
            Self::UnknownField { .. } => "unknown field".to_owned(),
            Self::UnknownVariant { .. } => "unknown name".to_owned(),
            Self::MissingField => "missing in here".to_owned(),
            Self::MissingTarget { .. } => "which type is this?".to_owned(),
            Self::NoSuchItem { .. } => "no such item".to_owned(),
            Self::UnresolvedName { fallback, .. } => fallback.label(),
            Self::Read { .. } | Self::Syntax { .. } | Self::Invalid { .. } => "here".to_owned(),
        }
    }
}
