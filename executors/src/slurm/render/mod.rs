//! Temporary.
use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use neva_schemas::{LaunchPlan, PLAN_FILE, ScriptPlan, SlurmExecutorConfig};

use crate::{
    error::ExecutorError,
    submission::{BatchScript, JobKind, Payload, Submission, script_argv, train_argv},
};

fn q(s: &str) -> String {
    format!("'{}'", s.replace('\'', "'\\''"))
}

fn text(
    dir: &Path,
    nodes: u32,
    tasks: u32,
    env: &BTreeMap<String, String>,
    argv: &[String],
    cwd: Option<&Path>,
    config: &SlurmExecutorConfig,
) -> String {
    let d = dir.display();
    let mut t = format!(
        "#!/bin/bash\n#SBATCH --nodes={nodes}\n#SBATCH --ntasks-per-node={tasks}\n#SBATCH --open-mode=append\n#SBATCH --output={d}/logs/slurm.log\n#SBATCH --time={}\n#SBATCH --signal=USR1@{}\n#SBATCH --requeue\n",
        config.time,
        config.signal_s.unwrap_or(60)
    );
    for (n, v) in env {
        let _ = writeln!(t, "export {n}={}", q(v));
    }
    let argv: Vec<_> = argv.iter().map(|a| q(a)).collect();
    let cwd = cwd.map_or_else(String::new, |c| format!("cd {}\n", q(&c.display().to_string())));
    let body = r#"unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
dir=@DIR
failures=$(wc -c 2>/dev/null <"$dir/failures.jsonl" || echo 0)
echo "neva-run: start ${SLURM_RESTART_COUNT:-0} of job $SLURM_JOB_ID, failures $((failures))"
finish() { code=$?; echo "$SLURM_JOB_ID ${SLURM_RESTART_COUNT:-0} $code" >"$dir/slurm.status.part"; mv "$dir/slurm.status.part" "$dir/slurm.status"; }
trap finish EXIT
@CWD
[ ! -e "$dir/cancel" ] || exit 0
srun --kill-on-bad-exit=1 --output="$dir/logs/rank%t.log" --open-mode=append @ARGV
code=$?
if grep -q '"stopped": *"SIGUSR1"' "$dir/report.json" 2>/dev/null && [ ! -e "$dir/cancel" ]; then scontrol requeue $SLURM_JOB_ID; sleep 600; fi
exit $code
"#;
    t.push_str(
        &body
            .replace("@DIR", &q(&d.to_string()))
            .replace("@CWD", &cwd)
            .replace("@ARGV", &argv.join(" ")),
    );
    t
}

pub fn render(config: &SlurmExecutorConfig, plan: &LaunchPlan, program: &Path) -> Result<Submission, ExecutorError> {
    let argv = train_argv(program, &plan.run_dir.join(PLAN_FILE))?;
    let script = text(&plan.run_dir, plan.num_nodes, plan.ranks_per_node, &plan.env, &argv, None, config);
    Ok(submission(
        &plan.run_dir,
        [
            (PLAN_FILE.into(), serde_json::to_string_pretty(plan)? + "\n"),
            ("job.sbatch".into(), script),
        ]
        .into(),
        JobKind::Ranks,
        config,
    ))
}

fn submission(dir: &Path, files: BTreeMap<std::path::PathBuf, String>, kind: JobKind, _: &SlurmExecutorConfig) -> Submission {
    Submission {
        dir: dir.to_owned(),
        files,
        payload: Payload::BatchScript(BatchScript {
            batch_script: "job.sbatch".into(),
            submit_argv: vec!["sbatch".into(), "--parsable".into(), dir.join("job.sbatch").display().to_string()],
        }),
        kind,
    }
}

pub fn render_script(config: &SlurmExecutorConfig, plan: &ScriptPlan) -> Result<Submission, ExecutorError> {
    let argv = script_argv(plan, &plan.run_dir.join("script"))?;
    let script = text(&plan.run_dir, 1, 1, &plan.env, &argv, Some(&plan.working_directory), config);
    Ok(submission(
        &plan.run_dir,
        [("script".into(), plan.text.clone()), ("job.sbatch".into(), script)].into(),
        JobKind::Script,
        config,
    ))
}
