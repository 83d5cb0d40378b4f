//! The example of an executor, `examples/pbs`, with stand-ins for PBS's programs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use neva_executors::{Executor, PollInterval};
use tempfile::TempDir;

use crate::{
    executable::write_executable,
    fixture::{Fixture, Programs},
};

#[expect(unreachable_pub, reason = "the example is part of a library in the user's crate")]
#[path = "../../../examples/pbs/mod.rs"]
mod example;

use example::PbsExecutor;

/// Runs the script in the background as job N.pbs, and records its end in `jobs/N.pbs`.
const QSUB: &str = r#"#!/bin/bash
jobs=$(dirname "$0")/jobs
mkdir -p "$jobs"
number=1
until mkdir "$jobs/$number.pbs" 2>/dev/null; do number=$((number + 1)); done
job=$jobs/$number.pbs
output=$(sed -n 's/^#PBS -o //p' "$1")
PBS_JOBID=$number.pbs setsid bash -c '
    bash "$1" >"$2" 2>&1 &
    echo $! >"$3/pid"
    while true; do
        wait $!
        code=$?
        kill -0 $! 2>/dev/null || break
    done
    echo "$code" >"$3/exit.part" && mv "$3/exit.part" "$3/exit"
' pbs "$1" "$output" "$job" </dev/null >/dev/null 2>&1 &
until [ -s "$job/pid" ]; do sleep 0.01; done
echo "$number.pbs"
"#;

const QSTAT: &str = r#"#!/bin/bash
job=$(dirname "$0")/jobs/$3
[ -d "$job" ] || { echo "qstat: Unknown Job Id $3" >&2; exit 153; }
if [ -e "$job/exit" ]; then
    printf 'Job Id: %s\n    job_state = F\n    Exit_status = %s\n' "$3" "$(cat "$job/exit")"
else
    printf 'Job Id: %s\n    job_state = R\n' "$3"
fi
"#;

const QSIG: &str = "#!/bin/bash\nkill -TERM \"$(cat \"$(dirname \"$0\")/jobs/$3/pid\")\"\n";

/// Kills the job's session.
const QDEL: &str = r#"#!/bin/bash
job=$(dirname "$0")/jobs/$3
pkill -KILL --session "$(ps -o sid= -p "$(cat "$job/pid")" | tr -d ' ')"
echo 271 >"$job/exit"
"#;

pub(crate) struct PbsFixture {
    dir: TempDir,
    programs: Programs,
}

impl PbsFixture {
    pub(crate) fn new() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            programs: Programs::default(),
        };
        for (name, text) in [("qsub", QSUB), ("qstat", QSTAT), ("qsig", QSIG), ("qdel", QDEL)] {
            write_executable(&fixture.dir.path().join(name), text);
        }
        fixture
    }
}

impl Fixture for PbsFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        Arc::new(PbsExecutor {
            program: self.programs.program(self.dir.path(), ranks, write_executable),
            queue: Some("gpu".into()),
            walltime: "01:00:00".into(),
            bin: self.dir.path().to_owned(),
            interval: PollInterval {
                first: Duration::from_millis(10),
                max: Duration::from_millis(100),
                max_status: Duration::from_millis(100),
            },
        })
    }

    fn jobs(&self) -> PathBuf {
        let jobs = self.dir.path().join("runs");
        fs::create_dir_all(&jobs).unwrap();
        jobs
    }

    fn read(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    fn write(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
    }

    fn outlives_launcher(&self) -> bool {
        true
    }
}
