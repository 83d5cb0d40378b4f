//! Quoting for bash and for Slurm.

use std::path::Path;

use crate::error::ExecutorError;
pub(super) use crate::submission::{path_text, quoted};

/// Returns the error of a plan that does not fit the executor.
pub(super) fn refused(message: &str, help: &str) -> ExecutorError {
    ExecutorError::Refused {
        message: message.to_owned(),
        help: help.to_owned(),
    }
}

/// Returns the folder of a job as text.
///
/// # Errors
/// Slurm would read a part of its name as something else.
pub(super) fn job_folder(dir: &Path) -> Result<String, ExecutorError> {
    let text = path_text(dir)?;
    match text.chars().find(|c| c.is_control() || matches!(c, '%' | '\\')) {
        Some(odd) => Err(refused(
            &format!("the job's folder {text:?} contains {odd:?}, which Slurm does not take as it is in names of files"),
            "name another folder with `--set dir=...`",
        )),
        None => Ok(text),
    }
}

/// Quotes the value of a `#SBATCH` line, which sbatch reads as a shell does. The value has no line end.
pub(super) fn directive_value(value: &str) -> String {
    let safe = |c: char| !c.is_whitespace() && !"'\"\\#".contains(c);
    if value.chars().all(safe) {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// Words of a command line for bash, each quoted.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: Vec<String>,
    /// Number of words that stand on lines of their own.
    options: Option<usize>,
}

impl Words {
    /// Adds a word as it is.
    pub(super) fn word(&mut self, word: impl AsRef<str>) {
        self.words.push(quoted(word.as_ref()));
    }

    /// Adds words as they are.
    pub(super) fn words<T: AsRef<str>>(&mut self, words: impl IntoIterator<Item = T>) {
        words.into_iter().for_each(|word| self.word(word));
    }

    /// Adds text that bash expands.
    pub(super) fn shell(&mut self, text: impl Into<String>) {
        self.words.push(text.into());
    }

    /// Ends the options: the words that follow stand on one line.
    pub(super) fn end_options(&mut self) {
        self.options.get_or_insert(self.words.len());
    }

    /// Returns the command line, one option on each line.
    pub(super) fn lines(&self) -> String {
        let (options, program) = self.words.split_at(self.options.unwrap_or(self.words.len()));
        let program = (!program.is_empty()).then(|| program.join(" "));
        let lines: Vec<_> = options.iter().map(String::as_str).chain(program.as_deref()).collect();
        lines.join(" \\\n    ")
    }
}
