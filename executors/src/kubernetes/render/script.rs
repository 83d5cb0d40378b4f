//! The script that starts the ranks of a pod: POSIX sh, with the tools of coreutils or busybox.

use std::fmt::Write as _;

use neva_schemas::{KubernetesExecutorConfig, PLAN_FILE};

use super::{
    shape::Shape,
    work::{SCRIPT_FILE, Work},
};
use crate::{
    error::ExecutorError,
    submission::{quoted, script_argv, train_argv},
};

/// Body of the script, behind the lines that differ between jobs.
const BODY: &str = include_str!("start.sh");

/// Returns the script of every pod; the pod of rank 0 is `master` for the others.
pub(super) fn start_script(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, master: &str) -> Result<String, ExecutorError> {
    let dir = work.dir_text()?;
    let (kind, file, argv) = match work {
        Work::Ranks(plan) => (
            "ranks",
            PLAN_FILE,
            train_argv(config.rank_program.as_ref(), &plan.run_dir.join(PLAN_FILE))?,
        ),
        Work::Script(script) => ("script", SCRIPT_FILE, script_argv(script, &script.run_dir.join(SCRIPT_FILE))?),
    };
    let argv: Vec<_> = argv.iter().map(|word| quoted(word)).collect();
    let mut text = format!(
        "#!/bin/sh\n# Starts the ranks of a pod. Rendered by neva-run {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    let Shape { pods, ranks_per_pod, .. } = shape;
    let lines = [
        ("dir", quoted(&dir)),
        ("folder", quoted(&work.folder(config)?)),
        ("kind", kind.to_owned()),
        ("file", file.to_owned()),
        ("pods", pods.to_string()),
        ("ranks", ranks_per_pod.to_string()),
        ("settle", config.settle_s.to_string()),
        ("grace", config.termination_grace_period_seconds.to_string()),
        ("max_restarts", config.max_restarts.to_string()),
        ("master_addr", quoted(master)),
        ("master_port", config.master_port.to_string()),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{name}={value}");
    }
    let _ = writeln!(text, "set -- {}", argv.join(" "));
    if let Some(lines) = &config.setup_lines {
        let _ = writeln!(text, "\n# setup_lines\n{}", lines.trim_end());
    }
    text.push('\n');
    text.push_str(BODY);
    Ok(text)
}
