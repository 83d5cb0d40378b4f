//! Checks of image, folder and rank program, by a short job.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use neva_executors::{Executor as _, ExecutorError, JobEvent, JobHandle, JobState, KubernetesExecutor, WatchFrom};
use neva_schemas::{ScriptPlan, StopSignal};
use tokio::time::{Instant, timeout_at};

use super::kubernetes::{Doctor, UNREACHABLE};
use crate::program::RankVersion;

/// Time for which the job may wait for a node and pull its image.
const DEADLINE: Duration = Duration::from_secs(300);
/// Time for which a state that does not start the job may last: it is shown soon, and a person waits.
const STUCK: Duration = Duration::from_secs(30);

/// What became of the job.
#[derive(Default)]
struct Outcome {
    node: Option<String>,
    reason: Option<String>,
    output: String,
    state: Option<JobState>,
}

impl Doctor<'_> {
    /// Runs a short job: it pulls the image, writes into the folder of runs and starts the rank program.
    pub(super) async fn pod(&mut self) -> Option<()> {
        const NAME: &str = "image";
        let mut executor = self.executor.clone();
        let config = &mut executor.config;
        // One GPU is enough to see whether it is usable.
        config.gpus_per_node = config.gpus_per_node.map(|gpus| gpus.min(1));
        config.retries = 0;
        config.ttl_seconds_after_finished = Some(60);
        let submission = match plan(&executor).and_then(|plan| executor.render_script(&plan)) {
            Ok(submission) => submission,
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
        };
        let job = match executor.submit(&submission).await {
            Ok(job) => job,
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
        };
        let outcome = watch(&executor, &job).await;
        if !outcome.state.as_ref().is_some_and(JobState::is_end) {
            // The second request kills.
            for _ in 0..2 {
                let _ = executor.cancel(&job, StopSignal::Terminate).await;
            }
        }
        self.report(&outcome)
    }

    fn report(&mut self, outcome: &Outcome) -> Option<()> {
        let config = &self.executor.config;
        let image = config.image.clone().unwrap_or_default();
        let lines = |key: &str| {
            let lines = outcome.output.lines().filter_map(|line| line.strip_prefix(key));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        if lines("started").is_empty() {
            let reason = outcome.reason.clone().or_else(|| match &outcome.state {
                Some(JobState::Failed(failure)) => Some(failure.to_string()),
                _ => None,
            });
            let reason = reason.unwrap_or_else(|| "the job did not start in time".to_owned());
            let help = "set `image` to one that the nodes can pull, with `image_pull_secrets` for a registry with a login; \
                        for other reasons, change what the message names";
            return self.checks.problem("image", reason, help);
        }
        let node = outcome.node.clone().unwrap_or_else(|| "a node".to_owned());
        self.checks.ok("image", format!("{image} runs on {node}"));
        if let Some(dir) = config.runs_dir().map(str::to_owned) {
            if lines("folder ").first().is_some_and(|state| state == "ok") {
                self.checks.ok("folder", format!("pods can write to {dir}"));
            } else {
                let help = "the volume must be writable for the user of the pods: set `security_context: {fsGroup: ..., runAsUser: \
                            ...}`, or `read_only: false` of the volume";
                self.checks.problem(
                    "folder",
                    format!("pods cannot write to {dir}: {}", lines("folder ").join(" ")),
                    help,
                );
            }
        }
        let version = lines("rank ")
            .iter()
            .find_map(|line| serde_json::from_str::<RankVersion>(line).ok());
        let Some(version) = version else {
            let program = &config.rank_program;
            let detail = format!("{program} does not run in {image}: {}", lines("rank ").join(" "));
            let help = "set `rank_program` to its path in the image, and `image` to one with the libtorch that it is linked with";
            return self.checks.problem("neva-rank", detail, help);
        };
        let gpu = if version.cuda {
            ", and a GPU is usable"
        } else {
            ", and no GPU is usable"
        };
        self.checks
            .ok("neva-rank", format!("{} with libtorch {}{gpu}", version.version, version.libtorch));
        Some(())
    }
}

/// Returns the script of the job. Each line of its output begins with a key; its folder is gone afterwards.
fn plan(executor: &KubernetesExecutor) -> Result<ScriptPlan, ExecutorError> {
    let config = &executor.config;
    let runs = executor.runs_folder().unwrap_or(Path::new("/tmp"));
    let dir = runs.join(".neva-run").join(format!("doctor-{}", std::process::id()));
    let not_utf8 = || ExecutorError::NotUtf8 { path: dir.clone() };
    let folder = quoted(dir.to_str().ok_or_else(not_utf8)?);
    let above = quoted(dir.parent().and_then(Path::to_str).ok_or_else(not_utf8)?);
    let program = quoted(&config.rank_program);
    // With `sed`, each line is known as the program's.
    let text = format!(
        "echo started\n\
         if out=$( (echo written >{folder}/file) 2>&1 ); then echo folder ok; else echo \"folder $out\"; fi\n\
         {program} version 2>&1 | sed 's/^/rank /'\n\
         cd / && rm -rf {folder} && rmdir {above} 2>/dev/null\n\
         exit 0\n"
    );
    Ok(ScriptPlan {
        name: "doctor".to_owned(),
        working_directory: PathBuf::from("/"),
        run_dir: dir,
        text,
        entrypoint: vec!["sh".to_owned()],
        args: Vec::new(),
        env: [].into(),
    })
}

/// Watches the job until it ends, or until it is clear that it does not start.
async fn watch(executor: &KubernetesExecutor, job: &JobHandle) -> Outcome {
    let mut outcome = Outcome::default();
    let mut events = executor.watch(job, WatchFrom::rank0());
    let start = Instant::now();
    loop {
        let limit = if outcome.reason.is_some() { STUCK } else { DEADLINE };
        let Ok(Some(event)) = timeout_at(start + limit, events.next()).await else {
            return outcome;
        };
        match event {
            Ok(JobEvent::Status(status)) => {
                if let Some(node) = status.nodes.first() {
                    outcome.node = Some(node.clone());
                }
                outcome.reason = status.reason;
                outcome.state = Some(status.state);
            }
            Ok(JobEvent::Output { bytes, .. }) => outcome.output += &String::from_utf8_lossy(&bytes),
            Ok(JobEvent::Ended(end)) => {
                outcome.state = Some(end.state);
                return outcome;
            }
            Ok(JobEvent::ConnectionLost { reason, .. }) => outcome.reason = Some(reason),
            Ok(JobEvent::ConnectionRestored) => {}
            Err(error) => {
                outcome.reason = Some(error.reason());
                return outcome;
            }
        }
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
