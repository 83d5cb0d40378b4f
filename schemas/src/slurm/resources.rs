//! Validation of nodes, CPUs, memory and GPUs.

use super::{SlurmArray, SlurmExecutorConfig, SlurmParameter};
use crate::validate::Problem;

/// Values of `exclusive` beside `true`.
const EXCLUSIVE: &[&str] = &["user", "mcs", "topo"];

impl SlurmExecutorConfig {
    pub(super) fn validate_resources(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let counts = [
            ("nodes", self.nodes),
            ("ntasks_per_node", self.ntasks_per_node),
            ("cpus_per_task", self.cpus_per_task),
            ("cpus_per_gpu", self.cpus_per_gpu),
            ("gpus_per_task", self.gpus_per_task),
            ("segment", self.segment),
            ("torchrun_nproc_per_node", self.torchrun_nproc_per_node),
        ];
        for (name, count) in counts {
            if count == Some(0) {
                problems.push(Problem::error(field(name), format!("`{name}` is 0, it must be at least 1")));
            }
        }
        let memory = [
            ("mem", &self.mem),
            ("mem_per_gpu", &self.mem_per_gpu),
            ("mem_per_cpu", &self.mem_per_cpu),
        ];
        for (name, size) in memory {
            if size.as_ref().is_some_and(|size| !is_size(size)) {
                let message = format!("{:?} is not an amount of memory", size.as_deref().unwrap_or_default());
                problems
                    .push(Problem::error(field(name), message).help("write a number with K, M, G or T, as `64G`; without one it is in MB"));
            }
        }
        let set: Vec<_> = memory.iter().filter(|(_, size)| size.is_some()).map(|(name, _)| *name).collect();
        if let [first, second, ..] = set.as_slice() {
            problems.push(exclusive_fields(field(second), first, second));
        }
        if self.cpus_per_task.is_some() && self.cpus_per_gpu.is_some() {
            problems.push(exclusive_fields(field("cpus_per_gpu"), "cpus_per_task", "cpus_per_gpu"));
        }
        if self
            .gres
            .as_ref()
            .is_some_and(|gres| gres.split(',').any(|item| item.split(':').next() == Some("gpu")))
            && let (Some(gres), Some(gpus)) = (self.gres.as_ref().and_then(|gres| gres_gpus(gres)), self.gpus_per_node)
            && gres != gpus
        {
            let message = format!("`gres` requests {gres} GPUs on each node, but `gpus_per_node` is {gpus}");
            problems.push(Problem::error(field("gres"), message).help("remove one of them"));
        }
        if let Some(SlurmParameter::Text(value)) = &self.exclusive
            && !EXCLUSIVE.contains(&value.as_str())
        {
            let message = format!("`exclusive` is {value:?}");
            problems.push(Problem::error(field("exclusive"), message).help("write `true`, `false`, `user`, `mcs` or `topo`"));
        }
        if let Some(array) = &self.array
            && SlurmArray::parse(array).is_none()
        {
            let message = format!("{array:?} is not a range of an array");
            problems.push(
                Problem::error(field("array"), message).help("write `0-7`, `1,3,5`, `0-15:4`, each with a cap as in `0-7%2`, or only `%2`"),
            );
        }
        if self.max_array_size.is_some_and(|size| size < 2) {
            problems.push(
                Problem::error(field("max_array_size"), "an array of the cluster has no tasks")
                    .help("write what `scontrol show config | grep MaxArraySize` prints"),
            );
        }
        if self.het_group_indices.is_some() && !self.heterogeneous {
            problems.push(
                Problem::error(field("het_group_indices"), "`het_group_indices` is set, but `heterogeneous` is not")
                    .help("set `heterogeneous: true`"),
            );
        }
    }

    /// Returns the cap of `array` if it is only a cap, as in `%2`: that of the array of a sweep.
    pub fn array_cap(&self) -> Option<u32> {
        let array = SlurmArray::parse(self.array.as_deref()?)?;
        array.cap.filter(|_| array.range.is_empty())
    }

    /// Returns the most tasks of an array: their numbers are below Slurm's `MaxArraySize`.
    pub fn max_array_tasks(&self) -> usize {
        self.max_array_size.unwrap_or(1001) as usize
    }

    /// Returns true if the settings that hold for a whole job are the same.
    pub(crate) fn can_share_job(&self, other: &Self) -> bool {
        let of_job = |config: &Self| {
            let texts = (
                config.setup_lines.clone(),
                config.modules.clone(),
                config.libtorch.clone(),
                config.env_from.clone(),
            );
            let counts = (config.retries, config.max_requeues, config.slurm_version.clone());
            let jobs = (config.dependencies.clone(), config.dependency_type.clone(), config.array.clone());
            (texts, counts, jobs)
        };
        self.tunnel == other.tunnel && self.packager == other.packager && of_job(self) == of_job(other)
    }

    /// Returns the GPUs of each node that the config requests; `None`: those of the run.
    pub fn gpus(&self) -> Option<u32> {
        self.gpus_per_node.or_else(|| self.gres.as_deref().and_then(gres_gpus))
    }
}

fn exclusive_fields(path: String, first: &str, second: &str) -> Problem {
    Problem::error(path, format!("Slurm accepts only one of `{first}` and `{second}`")).help("remove one of them")
}

/// Returns the GPUs that a GRES requests: `gpu:8`, `gpu:a100:4`.
fn gres_gpus(gres: &str) -> Option<u32> {
    let item = gres.split(',').find(|item| item.split(':').next() == Some("gpu"))?;
    let count = item.split('(').next()?.rsplit(':').next()?;
    match count {
        "gpu" => Some(1),
        count => count.parse().ok(),
    }
}

fn is_size(size: &str) -> bool {
    let digits = size
        .trim_end_matches(['B', 'b'])
        .trim_end_matches(['K', 'M', 'G', 'T', 'k', 'm', 'g', 't']);
    !digits.is_empty() && size.len() - digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit())
}
