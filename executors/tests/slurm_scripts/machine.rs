//! A folder of stand-ins for Slurm's programs, in which bash runs a rendered script.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use neva_executors::{
    Submission,
    slurm::render::{BATCH_FILE, render},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::cases::{config, tiny};

/// Runs the program once for each task, as srun does: with its variables and its log. Returns the greatest exit code.
const SRUN: &str = r#"#!/bin/bash
echo "${*//$'\n'/ }" >>"$CALLS/srun"
ntasks=1 output=/dev/null
while [[ $1 == -* ]]; do
    case $1 in
        --ntasks=*) ntasks=${1#*=} ;;
        --output=*) output=${1#*=} ;;
    esac
    shift
done
pids=()
for ((task = 0; task < ntasks; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_TASKS=$ntasks "$@" >>"${output//%t/$task}" 2>&1 &
    pids+=($!)
    echo $! >>"$CALLS/pids"
done
worst=0
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    ((code > worst)) && worst=$code
done
exit $worst
"#;

/// `scancel --signal=NAME JOB` signals the tasks.
const SCANCEL: &str = r#"#!/bin/bash
echo "$*" >>"$CALLS/scancel"
kill "-${1#--signal=}" $(cat "$CALLS/pids")
"#;

const SCONTROL: &str = "#!/bin/bash\necho \"$*\" >>\"$CALLS/scontrol\"\n";
const SQUEUE: &str = "#!/bin/bash\necho \"my comment neva-run:abc123 step 1 of 2, loss 9\"\n";
const MODULE: &str = "#!/bin/bash\necho \"$*\" >>\"$CALLS/module\"\n[ \"$2\" != missing ]\n";
const SLEEP: &str = "#!/bin/bash\nexec /bin/sleep \"$(awk \"BEGIN { print $1 / 100 }\")\"\n";

/// A machine with stand-ins for Slurm's programs.
pub(crate) struct Machine {
    dir: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, text) in [
            ("srun", SRUN),
            ("scancel", SCANCEL),
            ("scontrol", SCONTROL),
            ("squeue", SQUEUE),
            ("module", MODULE),
            ("sleep", SLEEP),
            ("nvidia-smi", "#!/bin/bash\necho memory\n"),
        ] {
            machine.program(name, text);
        }
        fs::create_dir(machine.path("calls")).unwrap();
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates a program.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Renders a job of two ranks that run the shell text `ranks` in the folder of the run.
    pub(crate) fn job(&self, settings: &Value, ranks: &str, env: &[(&str, &str)]) -> Submission {
        let program = self.program("rank", &format!("#!/bin/bash\ncd \"${{3%/*}}\" || exit 9\n{ranks}\n"));
        let mut plan = tiny(&self.path("run folder"), 1, 2);
        plan.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        render(&config(settings), &plan, &program).unwrap()
    }

    /// Writes a submission's files.
    pub(crate) fn write(&self, submission: &Submission) {
        for (file, text) in &submission.files {
            let path = submission.dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir_all(submission.dir.join("logs")).unwrap();
    }

    /// Starts the script of a submission as the given start of job 7.
    pub(crate) fn start(&self, submission: &Submission, restart: u32, env: &[(&str, &str)]) -> Child {
        self.write(submission);
        let mut command = Command::new("bash");
        command.arg(submission.dir.join(BATCH_FILE));
        let path = std::env::vars()
            .find(|(name, _)| name == "PATH")
            .map_or_else(String::new, |(_, path)| path);
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("CALLS", self.path("calls"))
            .env("SLURM_JOB_ID", "7")
            .env("RANK", "3")
            .env("WORLD_SIZE", "4")
            .env_remove("UNSET")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if restart > 0 {
            command.env("SLURM_RESTART_COUNT", restart.to_string());
        }
        command.spawn().unwrap()
    }

    /// Runs the script to its end. Returns its exit code and its error output.
    pub(crate) fn run(&self, submission: &Submission, restart: u32) -> (i32, String) {
        end(self.start(submission, restart, &[]))
    }

    /// Returns the calls of a stand-in.
    pub(crate) fn calls(&self, program: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls").join(program)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Waits for a script.
pub(crate) fn end(child: Child) -> (i32, String) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Returns the text of a file; empty if there is none.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
