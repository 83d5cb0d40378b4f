//! Renders jobs as objects of Kubernetes: pure, the same bytes for the same input.
//!
//! | file | content |
//! |---|---|
//! | `shape.rs` | pods, ranks and GPUs |
//! | `script.rs`, `start.sh` | the script that starts the ranks of a pod |
//! | `pod.rs`, `volumes.rs` | the template of the pods |
//! | `job.rs`, `jobset.rs`, `trainjob.rs` | the object that makes the pods |
//! | `patch.rs` | `overrides` of the executor |
//! | `strict.rs` | check against the types of Kubernetes |
//!
//! In a pod the script reads and writes:
//!
//! | file | content |
//! |---|---|
//! | `/neva/job/plan.json`, `/neva/job/start.sh` | plan and script, from the ConfigMap |
//! | `/neva/pod/stop` | the signal of a request to stop, from an annotation of the pod |
//! | `/neva/pod/job` | uid of the job, from a label of the pod |
//! | `<dir>/logs/rank<R>.log`, `<dir>/plan.json` | as for the local executor |
//! | `<dir>/logs/.starts<INDEX>` | uid of the job, and a line for each start of the pod |
//! | standard output | output of the ranks: `R|LINE`, `R>LINE WITHOUT END`; `!LINE` of the report |
//! | the termination message | `exit RANK CODE UNIX_S BY_ITSELF`, `checkpoint STEPS PATH`, `record JSON`, `fail CLASS TEXT` |
//!
//! Exit codes of a pod: 0 done or cancelled, 1 and 3 count as retries, 2 and 4 end the job, 75 another pod was the cause (not
//! counted), 76 too many restarts (ends the job).

mod job;
mod jobset;
mod patch;
mod pod;
mod script;
mod shape;
mod strict;
mod trainjob;
mod volumes;
mod work;

pub(super) use pod::CONTAINER;

use neva_schemas::{KubernetesExecutorConfig, KubernetesKind, LaunchPlan, ScriptPlan};
use serde_json::{Value, json};

use self::{patch::apply_overrides, pod::pod_template, script::start_script, shape::Shape, work::Work};
use super::names::{Names, metadata};
use crate::{
    error::ExecutorError,
    submission::{Manifests, Payload, Submission},
    topology::Topology,
};

/// Folder of runs without a volume.
pub(in crate::kubernetes) const RUNS: &str = "/neva/runs";
/// File of the start script in the ConfigMap.
const START_FILE: &str = "start.sh";
/// Maximum number of bytes of a ConfigMap.
const MAX_CONFIG_MAP: usize = 1 << 20;

/// Renders the objects of a plan.
///
/// # Errors
/// The plan does not fit the executor's settings.
pub fn render(config: &KubernetesExecutorConfig, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
    Topology::from_plan(plan).ok_or(ExecutorError::NoMesh {
        ranks: plan.run.finetune.trainer.world_size(),
    })?;
    render_work(config, Work::Ranks(plan))
}

/// Renders the objects of a script.
///
/// # Errors
/// As [`render`].
pub fn render_script(config: &KubernetesExecutorConfig, script: &ScriptPlan) -> Result<Submission, ExecutorError> {
    render_work(config, Work::Script(script))
}

fn render_work(config: &KubernetesExecutorConfig, work: Work<'_>) -> Result<Submission, ExecutorError> {
    let shape = Shape::new(config, work)?;
    let names = Names::new(config, work.name(), &work.dir_text()?);
    let master = match (shape.pods, config.kind) {
        (1, _) => "127.0.0.1".to_owned(),
        (_, KubernetesKind::Job) => format!("{0}-0.{0}", names.job),
        (_, KubernetesKind::JobSet) => format!("{0}-{1}-0-0.{0}", names.job, jobset::REPLICATED_JOB),
        (_, KubernetesKind::TrainJob) => format!("{0}-{1}-0-0.{0}", names.job, trainjob::REPLICATED_JOB),
    };
    let start = start_script(config, work, shape, &master)?;
    let (file, text) = work.file()?;
    if start.len() + text.len() > MAX_CONFIG_MAP - 4096 {
        return Err(refused(
            format!("{file} has {} bytes, more than a ConfigMap holds", text.len()),
            "move lists of the recipe to files that the ranks read",
        ));
    }
    let mut manifests = Vec::new();
    // The controller of a JobSet makes its Service.
    if shape.pods > 1 && config.kind == KubernetesKind::Job {
        manifests.push(service(config, &names));
    }
    manifests.push(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(config, &names),
        "data": { file: text, START_FILE: start },
    }));
    let template = pod_template(config, work, shape, &names);
    let mut object = match config.kind {
        KubernetesKind::Job => job::job(config, work, shape, &names, template),
        KubernetesKind::JobSet => jobset::jobset(config, work, shape, &names, template),
        KubernetesKind::TrainJob => trainjob::trainjob(config, work, shape, &names, &template)?,
    };
    apply_overrides(&mut object, &config.overrides)?;
    strict::check(&object, config.kind)?;
    manifests.push(object);
    Ok(Submission {
        dir: work.dir().to_owned(),
        files: [(file.into(), text_of(&manifests, file))].into(),
        payload: Payload::Manifests(Manifests { manifests }),
        kind: work.kind(),
    })
}

/// Returns the text of a file in the ConfigMap.
fn text_of(manifests: &[Value], file: &str) -> String {
    let maps = manifests.iter().filter(|object| object["kind"] == "ConfigMap");
    maps.filter_map(|map| map["data"][file].as_str()).collect()
}

/// Returns the headless Service that gives the pods their names.
fn service(config: &KubernetesExecutorConfig, names: &Names) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(config, names),
        "spec": {
            "clusterIP": "None",
            // Ranks meet before their pods are ready.
            "publishNotReadyAddresses": true,
            "selector": names.selector(),
        },
    })
}

/// Returns the error of a job that does not fit the executor.
fn refused(message: impl Into<String>, help: impl Into<String>) -> ExecutorError {
    ExecutorError::Refused {
        message: message.into(),
        help: help.into(),
    }
}
