//! A temporary store, and the program that works on it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{fake_rank, process};

/// A working directory with a store in `home`.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes `exp.yaml` with scripts as tasks: name, text, and further YAML of the task.
    pub(crate) fn scripts(&self, name: &str, tasks: &[(&str, &str, &str)]) {
        let mut text = format!("name: {name}\ntasks:\n");
        for (task, script, rest) in tasks {
            let script = serde_json::to_string(script).unwrap();
            writeln!(text, "  {task}: {{task: {{_target_: run.Script, inline: {script}}}{rest}}}").unwrap();
        }
        fs::write(self.path("exp.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the command `neva-run` with `arguments`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_neva-run"));
        command
            .current_dir(self.dir.path())
            .args(arguments)
            .env("NEVA_RUN_HOME", self.path("home"))
            .env("NEVA_RANK", fake_rank())
            .env("FAKE_RANK", "");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Runs the program to its end; returns exit code, standard output, standard error.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        process::end(self.spawn(arguments))
    }

    /// Runs the program, which must succeed, and returns its standard output.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}\n{stdout}\n{stderr}");
        stdout
    }

    /// Returns the status of an experiment by id or name.
    pub(crate) fn status(&self, name: &str) -> Value {
        serde_json::from_str(&self.done(&["experiment", "status", name, "--output", "json"])).unwrap()
    }

    /// Returns the folder of the latest experiment of a name, if any.
    pub(crate) fn folder(&self, name: &str) -> Option<PathBuf> {
        let entries = fs::read_dir(self.path("home/experiments").join(name)).ok()?;
        let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders.pop()
    }
}

/// Returns the states of the tasks in a status or report.
pub(crate) fn states(status: &Value) -> Vec<String> {
    let tasks = status["tasks"].as_array().unwrap().iter();
    let state = |task: &Value| match &task["state"] {
        Value::String(state) => state.clone(),
        Value::Object(state) => state.keys().next().unwrap().clone(),
        other => panic!("{other}"),
    };
    tasks.map(state).collect()
}

/// Waits for the file at `path` and reads it.
pub(crate) fn text_of(path: &Path) -> String {
    process::wait_for(&path.display().to_string(), || {
        fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
}
