//! Dry run: the planned run as a value and as text.

use std::fmt;

use neva_executors::{JobKind, Payload, Process, Processes, Submission, Topology, train_argv};
use neva_schemas::{LaunchPlan, PLAN_FILE, Run};
use serde_json::{Value as Json, json};

use crate::{
    config::{Node, Origin, Path, Segment, Value, to_node, to_yaml_string},
    error::RunError,
    executor::{self, SelectedExecutor},
    launch, program,
    resolve::Resolved,
    workspace::Workspace,
};

/// Maximum number of ranks whose command lines a dry run prints.
const SHOWN_RANKS: usize = 8;

/// A planned run.
pub(super) struct DryRun {
    yaml: String,
    pub(super) plan: LaunchPlan,
    pub(super) submission: Submission,
    /// Hash of the resolved run, which no executor changes.
    pub(super) run_hash: String,
    /// Name of the executor; `None` for a run in this process.
    executor: Option<String>,
    workspace: Option<String>,
    /// Values from the workspace, each with its location.
    from_workspace: Vec<String>,
}

impl DryRun {
    /// Plans the run and renders it through the executor, or for this process if there is none.
    pub(super) fn new(resolved: &Resolved, selected: Option<&SelectedExecutor>, workspace: Option<&Workspace>) -> Result<Self, RunError> {
        let run = &resolved.run;
        let (plan, submission) = match selected {
            Some(selected) => {
                let executor = executor::executor(&selected.config)?;
                let mut plan = launch::lower_for(run, None, &*executor)?;
                plan.env = selected.config.env_vars().clone();
                let submission = executor.render(&plan)?;
                (plan, submission)
            }
            None => {
                let plan = launch::lower_now(run, None)?;
                let submission = in_this_process(&plan)?;
                (plan, submission)
            }
        };
        let file = workspace.map(|workspace| workspace.file.display().to_string());
        let mut from_workspace = Vec::new();
        if let Some(file) = &file {
            let trees = [Some(&resolved.tree), selected.map(|selected| &selected.tree)];
            trees
                .into_iter()
                .flatten()
                .for_each(|tree| written_in(file, &mut Path::default(), tree, &mut from_workspace));
        }
        Ok(Self {
            yaml: to_yaml_string(&to_node(run, Origin::recipe(&run.factory))?),
            plan,
            submission,
            run_hash: run_hash(run)?,
            executor: selected.map(|selected| selected.name.clone()),
            workspace: file,
            from_workspace,
        })
    }

    /// Returns the dry run as JSON.
    pub(super) fn json(&self) -> Json {
        let Self {
            plan,
            submission,
            run_hash,
            executor,
            workspace,
            from_workspace,
            ..
        } = self;
        let mut value = json!({
            "plan": plan,
            "precision": plan.run.finetune.effective_precision(),
            "run_hash": run_hash,
            "processes": submission.processes(),
            "executor": executor,
            "workspace": workspace,
            "from_workspace": from_workspace,
        });
        if let Some(script) = submission.batch_text() {
            value["batch_script"] = json!(script);
        }
        if let Some(manifests) = submission.manifests() {
            value["manifests"] = json!(manifests.manifests);
        }
        value
    }
}

/// Returns the hash of a resolved run: the same for every executor, folder and date.
fn run_hash(run: &Run) -> Result<String, RunError> {
    /// Digits of the hash.
    const DIGITS: usize = 16;
    let text = serde_json::to_vec(run).map_err(neva_executors::ExecutorError::from)?;
    Ok(blake3::hash(&text).to_hex().chars().take(DIGITS).collect())
}

fn in_this_process(plan: &LaunchPlan) -> Result<Submission, RunError> {
    // Works without a rank program.
    let program = program::find_here().unwrap_or_else(|_| program::name().into());
    let process = Process {
        argv: train_argv(&program, &plan.run_dir.join(PLAN_FILE))?,
        env: Default::default(),
        working_directory: None,
        log: Default::default(),
    };
    Ok(Submission {
        dir: plan.run_dir.clone(),
        files: Default::default(),
        payload: Payload::Processes(Processes {
            processes: vec![process],
            exit_timeout_s: None,
        }),
        kind: JobKind::Ranks,
    })
}

/// Collects the values of `node` that were written in `file`, each with its location.
fn written_in(file: &str, path: &mut Path, node: &Node, found: &mut Vec<String>) {
    let mut inside = |path: &mut Path, segment: Segment, node: &Node| {
        path.0.push(segment);
        written_in(file, path, node, found);
        path.0.pop();
    };
    match &node.value {
        Value::Map(map) => map
            .iter()
            .for_each(|(key, entry)| inside(path, Segment::Key(key.clone()), &entry.node)),
        Value::Seq(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, item)| inside(path, Segment::Index(index), item)),
        _ if node.origin.span().is_some_and(|(source, _)| source.name() == file) => {
            found.push(format!("{path}: {} ({})", to_yaml_string(node).trim_end(), node.origin));
        }
        _ => {}
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            yaml, plan, submission, ..
        } = self;
        let finetune = &plan.run.finetune;
        writeln!(f, "{}\n", yaml.trim_end())?;
        writeln!(
            f,
            "# ranks                    {} ({} nodes x {})",
            plan.world_size(),
            plan.num_nodes,
            plan.ranks_per_node
        )?;
        if let Some(Topology { sizes, .. }) = Topology::from_plan(plan) {
            writeln!(f, "# tensor parallel          {}", sizes.tp)?;
            writeln!(f, "# data parallel            {}", sizes.dp)?;
        }
        if let Some(microbatches) = finetune.num_microbatches() {
            let micro = finetune.data.micro_batch_size();
            writeln!(
                f,
                "# microbatches per step    {microbatches} of {micro} samples on each data-parallel rank"
            )?;
        }
        let trainer = &finetune.trainer;
        let limits =
            [(trainer.max_steps, ""), (trainer.max_epochs, " epochs")].map(|(limit, unit)| limit.map(|limit| format!("{limit}{unit}")));
        writeln!(
            f,
            "# steps                    {}",
            limits.into_iter().flatten().collect::<Vec<_>>().join(", at most ")
        )?;
        for line in finetune.effective_precision().to_string().lines() {
            writeln!(f, "# {line}")?;
        }
        writeln!(f, "# run folder               {}", plan.run_dir.display())?;
        if let Some(executor) = &self.executor {
            writeln!(f, "# executor                 {executor}")?;
        }
        if let Some(workspace) = &self.workspace {
            writeln!(f, "# workspace                {workspace}")?;
            for value in &self.from_workspace {
                writeln!(f, "#   {value}")?;
            }
        }
        for process in submission.processes().iter().take(SHOWN_RANKS) {
            write!(f, "\n# {process}")?;
        }
        for line in submission.batch_text().unwrap_or_default().lines() {
            write!(f, "\n# {line}")?;
        }
        if let Some(manifests) = submission.manifests() {
            let text = manifests.yaml().map_err(|_| fmt::Error)?;
            text.lines().try_for_each(|line| write!(f, "\n# {line}"))?;
        }
        match submission.processes().len().saturating_sub(SHOWN_RANKS) {
            0 => Ok(()),
            more => write!(f, "\n# and {more} more ranks"),
        }
    }
}
