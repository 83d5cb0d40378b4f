//! How a command travels over SSH.
//!
//! An SSH server passes one text to the user's login shell, which may be any. So the text is always the same short line,
//! which every shell reads alike; it starts a POSIX shell that reads a script from the first bytes of its standard input.
//! The script sets the environment and starts the program: neither is on a command line, where others could see them, and
//! neither has its length limited. A cut script misses its last brace, so nothing of it is run.
//!
//! The script prints a marker before the program starts, because start-up files of shells may print text, and after it has
//! ended, with its exit code: an answer without the second marker is incomplete, whatever the SSH client's exit code says.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{CommandEnd, CommandOutput, TunnelCommand};
use crate::exit::signal_name;

/// Settings of the shell that starts programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RemoteShell {
    /// Shell that runs the script as a login shell, so that it reads its profile; `/bin/sh` without one if it is not set.
    pub(super) shell: Option<String>,
    /// Command before each program, such as `module load slurm`.
    pub(super) pre_command: Option<String>,
}

/// A command as it is sent.
#[derive(Debug)]
pub(super) struct Parcel {
    /// Text for the login shell.
    pub(super) line: String,
    /// Standard input: the script and the command's own input.
    pub(super) input: Vec<u8>,
    marker: String,
}

/// Answer of the server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RawOutput {
    /// Exit code of the shell, if the server sent one.
    pub(super) code: Option<i32>,
    /// Signal that ended the shell, if one did.
    pub(super) signal: Option<String>,
    /// Standard output.
    pub(super) stdout: Vec<u8>,
    /// Standard error.
    pub(super) stderr: Vec<u8>,
}

/// Meaning of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The program ended.
    Done(CommandOutput),
    /// The command before the program failed; its words.
    PreCommandFailed(String),
    /// The account has no usable shell, as one that only transfers files; the server's words.
    NoShell(String),
    /// The connection was cut; the last words.
    Cut(String),
}

impl RemoteShell {
    /// Returns a command as it is sent.
    ///
    /// # Errors
    /// A text of it holds a NUL character, or a variable has a name that shells cannot set.
    pub(super) fn wrap(&self, command: &TunnelCommand) -> Result<Parcel, String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let marker = format!("neva-run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut texts = command.argv.iter().chain(command.env.values());
        if texts.any(|text| text.contains('\0')) {
            return Err("it holds a NUL character".to_owned());
        }
        let is_name = |name: &str| {
            let mut letters = name.chars();
            let first = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
            first && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        if let Some(name) = command.env.keys().find(|name| !is_name(name)) {
            return Err(format!("{name:?} is not a name of a variable that a shell can set"));
        }
        let mut script = format!("{{\necho {marker}; echo {marker} >&2\n");
        for (name, value) in &command.env {
            // Writing to a string succeeds.
            let _ = writeln!(script, "export {name}={}", quote(value));
        }
        if let Some(pre) = self.pre_command.as_deref().filter(|pre| !pre.trim().is_empty()) {
            let _ = writeln!(
                script,
                "{{ {pre}\n}} </dev/null >&2 || {{ echo \"{marker} before $?\" >&2; exit 1; }}"
            );
        }
        let words: Vec<_> = command.argv.iter().map(|word| quote(word)).collect();
        script += &words.join(" ");
        let _ = write!(script, "\nneva_code=$?\necho >&2; echo \"{marker} $neva_code\" >&2\n}}");
        let shell = self
            .shell
            .as_deref()
            .map_or_else(|| "/bin/sh".to_owned(), |shell| format!("{shell} -l"));
        let line = format!("exec {shell} -c 'eval \"$(dd bs=1 count={} 2>/dev/null)\"'", script.len());
        let mut input = script.into_bytes();
        input.extend_from_slice(&command.stdin);
        Ok(Parcel { line, input, marker })
    }
}

impl Parcel {
    /// Returns the meaning of an answer.
    pub(super) fn read(&self, raw: RawOutput) -> Answer {
        let start = format!("{}\n", self.marker);
        let after_start = |bytes: &[u8]| find(bytes, start.as_bytes()).map(|at| bytes[at + start.len()..].to_vec());
        let words = last_words(&raw.stderr, &self.marker);
        let Some(mut stderr) = after_start(&raw.stderr) else {
            // A signal of the shell, or an exit code that no SSH client makes up for a lost connection.
            return match (&raw.signal, raw.code) {
                (None, Some(code)) if code != SSH_FAILED => Answer::NoShell(last_words_or(&raw, &words)),
                _ => Answer::Cut(words),
            };
        };
        let end = format!("\n{} ", self.marker);
        if let Some(at) = rfind(&stderr, end.as_bytes()) {
            let rest = String::from_utf8_lossy(&stderr[at + end.len()..]).into_owned();
            let code = rest.lines().next().unwrap_or_default().trim();
            if let Ok(code) = code.parse() {
                stderr.truncate(at);
                return Answer::Done(CommandOutput {
                    end: end_of(code),
                    stdout: after_start(&raw.stdout).unwrap_or_default(),
                    stderr,
                });
            }
        }
        if find(&stderr, format!("{} before ", self.marker).as_bytes()).is_some() {
            return Answer::PreCommandFailed(words);
        }
        match raw.signal {
            // The shell itself was killed.
            Some(signal) => Answer::Done(CommandOutput {
                end: CommandEnd::Signal(signal),
                stdout: after_start(&raw.stdout).unwrap_or_default(),
                stderr,
            }),
            None => Answer::Cut(words),
        }
    }
}

/// Exit code of `ssh` when it failed itself.
const SSH_FAILED: i32 = 255;

/// Returns the end for a shell's `$?`, in which 128 + N means signal N.
fn end_of(code: i32) -> CommandEnd {
    match code.checked_sub(128) {
        Some(signal @ 1..=64) => CommandEnd::Signal(signal_name(signal).trim_start_matches("SIG").to_owned()),
        _ => CommandEnd::Exit(code),
    }
}

/// Quotes a word for a POSIX shell.
pub(super) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns the last line that is not a marker.
fn last_words(bytes: &[u8], marker: &str) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains(marker));
    lines.next_back().unwrap_or_default().to_owned()
}

/// Returns `words`, or what the server printed to the standard output.
fn last_words_or(raw: &RawOutput, words: &str) -> String {
    if words.is_empty() {
        last_words(&raw.stdout, "\0")
    } else {
        words.to_owned()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn rfind(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).rposition(|window| window == what)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::*;

    /// Does what an SSH server does: a login shell runs the line, here after `noise`. It gets `len` bytes of the input.
    fn serve(parcel: &Parcel, noise: &str, len: usize) -> RawOutput {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{noise}\n{}", parcel.line)]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may exit without reading its input.
        let _ = child.stdin.take().unwrap().write_all(&parcel.input[..len]);
        let output = child.wait_with_output().unwrap();
        RawOutput {
            code: output.status.code(),
            signal: None,
            stdout: output.stdout,
            stderr: output.stderr,
        }
    }

    fn parcel(shell: &RemoteShell, words: &[&str], stdin: &str) -> Parcel {
        let mut command = TunnelCommand::new(words.iter().copied()).stdin(stdin);
        command.env.insert("A".to_owned(), "x'y\"$HOME\nz\\".to_owned());
        shell.wrap(&command).unwrap()
    }

    fn answer(shell: &RemoteShell, words: &[&str], stdin: &str) -> Answer {
        let parcel = parcel(shell, words, stdin);
        // Start-up files of shells print texts.
        parcel.read(serve(&parcel, "echo welcome; echo welcome >&2", parcel.input.len()))
    }

    fn done(end: CommandEnd, stdout: &str, stderr: &str) -> Answer {
        Answer::Done(CommandOutput {
            end,
            stdout: stdout.into(),
            stderr: stderr.into(),
        })
    }

    #[test]
    fn a_command_arrives_as_it_is() {
        let plain = RemoteShell::default();
        let exit = CommandEnd::Exit;
        assert_eq!(answer(&plain, &["cat"], "in\n"), done(exit(0), "in\n", ""));
        assert_eq!(
            answer(&plain, &["sh", "-c", "printf %s \"$A\"; echo e >&2; exit 7"], ""),
            done(exit(7), "x'y\"$HOME\nz\\", "e\n")
        );
        assert_eq!(
            answer(&plain, &["printf", "<%s>", "a b", "*", "'", "$A", ""], ""),
            done(exit(0), "<a b><*><'><$A><>", "")
        );
        // The shell adds a word of its own to the standard error.
        let Answer::Done(killed) = answer(&plain, &["sh", "-c", "kill -TERM $$"], "") else {
            panic!("it ended")
        };
        assert_eq!(killed.end, CommandEnd::Signal("TERM".into()));
        let with_before = |pre: &str| RemoteShell {
            pre_command: Some(pre.to_owned()),
            ..RemoteShell::default()
        };
        let before = with_before("B=1; export B; cat; echo noise");
        assert_eq!(
            answer(&before, &["sh", "-c", "echo $B; cat"], "in"),
            done(exit(0), "1\nin", "noise\n")
        );
        assert_eq!(
            answer(&with_before("echo no module >&2; false"), &["echo", "ran"], ""),
            Answer::PreCommandFailed("no module".into())
        );
    }

    #[test]
    fn what_is_cut_does_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("ran");
        let shell = RemoteShell {
            pre_command: Some("true".to_owned()),
            ..RemoteShell::default()
        };
        let parcel = parcel(&shell, &["touch", mark.to_str().unwrap()], "");
        for len in 0..parcel.input.len() {
            let raw = serve(&parcel, "", len);
            assert!(!mark.exists(), "{len} of {} bytes ran", parcel.input.len());
            // `ssh` exits with 255 where the connection is cut.
            let cut = parcel.read(RawOutput { code: Some(255), ..raw });
            assert!(matches!(cut, Answer::Cut(_)), "{cut:?}");
        }
    }

    #[test]
    fn an_answer_without_its_end_is_cut() {
        let parcel = parcel(&RemoteShell::default(), &["echo", "x"], "");
        let whole = serve(&parcel, "", parcel.input.len());
        let part = RawOutput {
            stderr: whole.stderr[..whole.stderr.len() / 2].to_vec(),
            code: Some(0),
            ..whole.clone()
        };
        assert!(matches!(parcel.read(part.clone()), Answer::Cut(_)));
        let killed = RawOutput {
            code: None,
            signal: Some("KILL".to_owned()),
            ..part
        };
        assert!(matches!(parcel.read(killed), Answer::Done(output) if output.end == CommandEnd::Signal("KILL".to_owned())));
        let sftp_only = RawOutput {
            code: Some(1),
            stdout: b"This service allows sftp connections only.\n".to_vec(),
            ..RawOutput::default()
        };
        assert_eq!(
            parcel.read(sftp_only),
            Answer::NoShell("This service allows sftp connections only.".to_owned())
        );
    }
}
