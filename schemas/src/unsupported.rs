//! Names from NeMo-Run that this version does not support.

/// A known name that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// The name on the command line or in `_target_`.
    pub name: &'static str,
    /// Suggested alternative.
    pub help: &'static str,
}

const KUBEFLOW: &str = "write `_target_: run.KubernetesExecutor`; with `kind: trainjob` it renders a TrainJob of Kubeflow Trainer 2";
const CLOUD: &str =
    "it drives a vendor's own service: start the ranks there with torchrun, `torchrun --no-python neva-run RECIPE --direct`";
const RAY: &str = "neva-run has no Ray: its ranks are started by srun and talk through NCCL or Gloo";
const TEMPLATE: &str = "use `setup_lines`, `srun_args` and `additional_parameters`; `neva-run render` prints the script";
const FAULT_TOLERANCE: &str = "set `retries` and `signal_s` of the executor, and `finetune.trainer.timeout_s`";

/// All unsupported names.
pub const UNSUPPORTED: &[Unsupported] = &[
    entry("kubeflow", KUBEFLOW),
    entry("run.KubeflowExecutor", KUBEFLOW),
    entry("run.KubeRayExecutor", RAY),
    entry("run.SkypilotExecutor", CLOUD),
    entry("run.SkypilotJobsExecutor", CLOUD),
    entry("run.LeptonExecutor", CLOUD),
    entry("run.DGXCloudExecutor", CLOUD),
    entry("slurm_ray", RAY),
    entry("run.SlurmRay", RAY),
    entry("run.SlurmTemplate", TEMPLATE),
    entry("ft", FAULT_TOLERANCE),
    entry("run.FaultTolerance", FAULT_TOLERANCE),
];

const fn entry(name: &'static str, help: &'static str) -> Unsupported {
    Unsupported { name, help }
}

/// Returns the entry of `name`, if there is one.
pub fn unsupported(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED.iter().find(|known| known.name == name)
}
