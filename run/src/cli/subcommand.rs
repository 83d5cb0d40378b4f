//! The subcommand of a command line, which may be omitted for `run`.

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser};

use super::{Cli, Globals};

/// Returns the names of the subcommands, for suggestions.
pub(super) fn subcommands() -> Vec<String> {
    let command = Cli::command();
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// The command line up to its subcommand: the global options, and the rest unparsed.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true, disable_version_flag = true)]
struct LeadingArgs {
    #[command(flatten)]
    _globals: Globals,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Inserts the subcommand `run` if there is none: `neva-run RECIPE ...`.
pub(super) fn with_subcommand(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if let Some(index) = missing_subcommand(&arguments) {
        arguments.insert(index, "run".into());
    }
    arguments
}

/// Returns the index at which the subcommand is missing, if the first argument after the global options is neither a
/// subcommand nor a help or version flag.
pub(super) fn missing_subcommand(arguments: &[OsString]) -> Option<usize> {
    // Hidden ones, too.
    let command = Cli::command();
    let is_known = |text: &str| matches!(text, "help" | "-h" | "--help" | "-V" | "--version") || command.find_subcommand(text).is_some();
    let (index, first) = first_argument(arguments)?;
    (!first.to_str().is_some_and(is_known)).then_some(index)
}

/// Returns the first argument after the global options, with its index. Invalid global options are reported later, when
/// the whole command line is parsed.
pub(super) fn first_argument(arguments: &[OsString]) -> Option<(usize, &OsString)> {
    let leading = LeadingArgs::try_parse_from(arguments).ok()?;
    let index = arguments.len().checked_sub(leading.rest.len())?;
    Some((index, arguments.get(index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_subcommand_is_no_recipe() {
        let missing = |words: &[&str]| missing_subcommand(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(missing(&["neva-run", "man", "folder"]), None);
        assert_eq!(missing(&["neva-run", "-v", "render", "neva_tiny"]), None);
        assert_eq!(missing(&["neva-run", "-v", "neva_tiny"]), Some(2));
    }
}
