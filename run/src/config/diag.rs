//! How problems look: miette reports with the characters underlined.

use std::{error::Error, ffi::OsStr, fmt};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use super::{
    error::{ConfigError, Problem},
    problems::Problems,
    visible::visible,
};

/// Columns of a report. Fixed, so that a report reads the same in a log as in a terminal.
const WIDTH: usize = 100;

/// Renders a [`ConfigError`] or [`Problems`] as a report for people; several problems stand one below
/// the other. What a terminal would obey is shown as an escape ([`visible`]).
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
    let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false);
    let shown = Shown {
        words: Words::of(diagnostic),
        help: diagnostic.help().map(|help| visible(&help.to_string()).into_owned()),
        diagnostic,
    };
    let mut report = String::new();
    match handler.render_report(&mut report, &shown) {
        Ok(()) => report,
        // Writing to a string does not fail; should quoting the source do so, the message is left.
        Err(_) => shown.to_string(),
    }
}

/// A problem in characters that a terminal shows. The text that it quotes shows itself so.
#[derive(Debug)]
struct Shown<'a> {
    words: Words,
    help: Option<String>,
    diagnostic: &'a dyn Diagnostic,
}

/// The message of an error, and those of what caused it.
#[derive(Debug)]
struct Words {
    message: String,
    cause: Option<Box<Self>>,
}

impl Words {
    fn of(error: &(impl Error + ?Sized)) -> Self {
        Self {
            message: visible(&error.to_string()).into_owned(),
            cause: error.source().map(|cause| Box::new(Self::of(cause))),
        }
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Words {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.fmt(f)
    }
}

impl Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.words.source()
    }
}

impl Diagnostic for Shown<'_> {
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

/// Whether a report has colour: only in a terminal, and not where `NO_COLOR` is set and not empty
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
    /// The problem, if it is one only: it is then shown as if it were not in a list.
    fn only(&self) -> Option<&ConfigError> {
        match self.errors() {
            [only] => Some(only),
            _ => None,
        }
    }
}

impl Problem {
    /// The few words under the underlined characters. The headline says the rest.
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
            Self::NotBuilt { otherwise, .. } => otherwise.label(),
            Self::Read { .. } | Self::Syntax { .. } | Self::Invalid { .. } => "here".to_owned(),
        }
    }
}
