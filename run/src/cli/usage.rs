//! Errors about arguments that clap rejects, and help and version output.

use std::{
    ffi::OsString,
    io::{self, Write as _},
};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use neva_schemas::{ExitClass, exit_class};
use serde_json::json;

use super::{
    Format,
    json::json_line,
    report::{Report, written},
    subcommand::{first_argument, missing_subcommand, subcommands},
};
use crate::{config::visible, resolve};

/// Prints clap's message about the `typed` arguments, also help and version, and returns the exit code.
pub(super) fn print_error(mut error: clap::Error, typed: &[OsString]) -> ExitClass {
    if !error.use_stderr() {
        return match error.print().and_then(|()| io::stdout().flush()).or_else(written) {
            Ok(()) => exit_class::DONE,
            Err(error) => Report::new(Format::Human, false).error(&error),
        };
    }
    let json = wants_json(typed);
    // In `neva-run shwo mine.yaml`, clap takes `shwo` for a recipe and reports the argument after it.
    let word = first_argument(typed).and_then(|(_, word)| word.to_str());
    let word = word.filter(|word| !word.starts_with('-') && missing_subcommand(typed).is_some());
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(unknown) = word.and_then(|word| resolve::unknown_word(word, &subcommands()))
    {
        let format = if json { Format::Json } else { Format::Human };
        return Report::new(format, false).error(&unknown.into());
    }
    without_dashes(&mut error);
    escape(&mut error);
    if json {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ");
        let error = json!({ "class": exit_class::INPUT, "message": message, "help": null, "problems": [], "failure": null });
        let _ = json_line(&json!({ "error": error }));
    } else {
        let _ = error.print();
    }
    exit_class::INPUT
}

/// Returns true if arguments that clap rejected contain `--output json`.
pub(super) fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "--output=json")
        || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

/// Removes the tip to write `-- --flag`: no file or recipe has the name of a flag.
fn without_dashes(error: &mut clap::Error) {
    let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) else {
        return;
    };
    let tips: Vec<_> = tips.into_iter().filter(|tip| !tip.to_string().starts_with("to pass '")).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
}

/// Escapes control characters in the arguments that the error quotes.
fn escape(error: &mut clap::Error) {
    let own = |text: &str| visible(text).into_owned();
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(own(text)))),
            ContextValue::Strings(texts) => Some((kind, ContextValue::Strings(texts.iter().map(|text| own(text)).collect()))),
            _ => None,
        })
        .collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
}
