//! What is said of arguments that are not a command.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use neva_schemas::{ExitClass, exit_class};
use serde_json::json;

use super::{
    Format, first, lacks_verb,
    report::{Report, json_line},
};
use crate::{config::visible, resolve};

/// Prints what clap says of the `typed` arguments, help and version among it, and returns the exit code.
pub(super) fn tell(mut error: clap::Error, typed: &[OsString]) -> ExitClass {
    if !error.use_stderr() {
        let _ = error.print();
        return exit_class::DONE;
    }
    let json = wants_json(typed);
    // `neva-run shwo mine.yaml`: the word that no verb has was taken for a recipe, and what follows it is blamed.
    let word = first(typed).and_then(|word| word.to_str());
    let word = word.filter(|word| !word.starts_with('-') && lacks_verb(typed));
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(unknown) = word.and_then(resolve::unknown_word)
    {
        let format = if json { Format::Json } else { Format::Human };
        return Report::new(format, false).error(&unknown.into());
    }
    without_dashes(&mut error);
    shown(&mut error);
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

/// Whether `--output json` stands among arguments that clap refused.
pub(super) fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "--output=json")
        || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
}

/// Takes away the tip to write `-- --flag`: no file or recipe is called like a flag.
fn without_dashes(error: &mut clap::Error) {
    let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) else {
        return;
    };
    let tips: Vec<_> = tips.into_iter().filter(|tip| !tip.to_string().starts_with("to pass '")).collect();
    if !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
}

/// Quotes what was typed in characters that a terminal shows.
fn shown(error: &mut clap::Error) {
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
