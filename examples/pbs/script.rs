//! The batch script.

use std::fmt::Write as _;

use neva_executors::{BatchScript, Payload, Process, Submission};
use neva_schemas::env;

use super::PbsExecutor;

/// File of the script in the job's folder.
const SCRIPT: &str = "job.pbs";

/// Functions that start the processes and wait for them. `exits` has a line `RANK CODE MILLISECONDS BY_ITSELF` for each.
const FUNCTIONS: &str = r#"
export MASTER_PORT=$((12000 + ${PBS_JOBID%%[!0-9]*} % 16000))
pids=() codes=() failed=0 end=''
trap 'kill -TERM "${pids[@]}" 2>/dev/null' TERM

wait_for_all() {
    local rank code running=${#pids[@]} by_itself=1
    while [ "$running" -gt 0 ]; do
        for rank in "${!pids[@]}"; do
            if [ -n "${codes[rank]:-}" ] || kill -0 "${pids[rank]}" 2>/dev/null; then
                continue
            fi
            wait "${pids[rank]}"
            code=$?
            codes[rank]=$code
            running=$((running - 1))
            echo "$rank $code $(date +%s%3N) $by_itself" >>exits
            if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then
                failed=$code
                end=$((SECONDS + 2))
            fi
        done
        # The others have two seconds to record their failure.
        if [ -n "$end" ] && [ "$SECONDS" -ge "$end" ]; then
            end='' by_itself=0
            kill -TERM "${pids[@]}" 2>/dev/null
        fi
        sleep 0.1
    done
}
"#;

/// Replaces the processes of the local executor by a script that starts them on a node.
pub(super) fn batch(executor: &PbsExecutor, name: &str, mut submission: Submission) -> Submission {
    let count = submission.processes().len();
    let dir = submission.dir.display().to_string();
    let mut text = format!("#!/bin/bash\n#PBS -N {}\n#PBS -j oe\n#PBS -o {dir}/logs/pbs.log\n", job_name(name));
    let _ = writeln!(text, "#PBS -l select=1:ncpus={count}:mpiprocs={count}");
    let _ = writeln!(text, "#PBS -l walltime={}", executor.walltime);
    if let Some(queue) = &executor.queue {
        let _ = writeln!(text, "#PBS -q {queue}");
    }
    let _ = writeln!(text, "{FUNCTIONS}\n{} || exit 3", command(["cd", &dir]));
    for (rank, process) in submission.processes().iter().enumerate() {
        let folder = process.working_directory.as_ref().map(|folder| folder.display().to_string());
        let folder = folder.map_or_else(String::new, |folder| command(["cd", &folder]) + " && ");
        let variables = process.env.iter().filter(|(name, _)| *name != env::MASTER_PORT);
        let variables = variables.map(|(name, value)| format!("{name}={value}"));
        let words = ["exec".to_owned(), "env".to_owned()].into_iter().chain(variables);
        let program = command(words.chain(process.argv.iter().cloned()));
        let log = command([process.log.display().to_string()]);
        let _ = writeln!(text, "({folder}{program}) >{log} 2>&1 &\npids[{rank}]=$!");
    }
    text += "wait_for_all\nexit \"$failed\"\n";
    let script = submission.dir.join(SCRIPT).display().to_string();
    submission.files.insert(SCRIPT.into(), text);
    submission.payload = Payload::BatchScript(BatchScript {
        batch_script: SCRIPT.into(),
        submit_argv: vec!["qsub".to_owned(), script],
        tasks: Vec::new(),
    });
    submission
}

/// Returns a command line for a shell.
fn command(words: impl IntoIterator<Item = impl Into<String>>) -> String {
    let process = Process {
        argv: words.into_iter().map(Into::into).collect(),
        env: Default::default(),
        working_directory: None,
        log: Default::default(),
    };
    process.to_string()
}

/// Returns a name that PBS accepts: at most 15 letters, digits, `-` and `_`.
fn job_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.chars().map(allowed).take(15).collect()
}
