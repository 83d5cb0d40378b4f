//! Validation of the Slurm executor.

use super::{SlurmArray, SlurmExecutorConfig, SlurmParameter, SlurmSignal, time, time_limit_s};
use crate::executor::{validate_variable, variable_name_error};
use crate::validate::{Problem, Validate};

/// Types of dependencies.
const DEPENDENCY_TYPES: &[&str] = &[
    "afterok",
    "afterany",
    "afternotok",
    "after",
    "aftercorr",
    "afterburstbuffer",
    "singleton",
];
/// Values of `exclusive` beside `true`.
const EXCLUSIVE: &[&str] = &["user", "mcs", "topo"];
/// Options of sbatch that have a field.
const FIELDS: &[(&str, &str)] = &[
    ("array", "array"),
    ("nodes", "nodes"),
    ("ntasks-per-node", "ntasks_per_node"),
    ("ntasks", "ntasks_per_node"),
    ("signal", "signal"),
    ("dependency", "dependencies"),
    ("job-name", "job_details.job_name"),
    ("comment", "comment"),
];
/// Options of sbatch on which the launcher depends.
const OURS: &[&str] = &[
    "output",
    "error",
    "parsable",
    "wrap",
    "wait",
    "test-only",
    "export",
    "export-file",
    "chdir",
    "hold",
];

impl Validate for SlurmExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        self.validate_refused(&field, problems);
        self.validate_times(&field, problems);
        self.validate_texts(&field, problems);
        self.validate_resources(&field, problems);
        self.validate_dependencies(&field, problems);
        self.validate_parameters(&field, problems);
        self.validate_environment(&field, problems);
        self.tunnel.validate(&field("tunnel"), problems);
        self.packager.validate(&field("packager"), problems);
    }
}

impl SlurmExecutorConfig {
    fn validate_refused(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        if self.ray_template.is_some() {
            let message = "neva-run has no Ray: its ranks are started by srun and talk through NCCL or Gloo";
            problems.push(
                Problem::error(field("ray_template"), message)
                    .help("remove it; start a Ray cluster in a `run.Script` of its own if you need one"),
            );
        }
        if self.job_details.folder.is_some() {
            problems.push(
                Problem::error(field("job_details.folder"), "the folder of a job is that of its run").help("set `dir` of the run instead"),
            );
        }
        if let Some(settings) = self.launcher.as_ref().and_then(|launcher| launcher.settings())
            && settings.rdzv_backend != "c10d"
        {
            let message = format!("ranks meet through c10d's store, not {:?}", settings.rdzv_backend);
            problems.push(Problem::error(field("launcher.rdzv_backend"), message).help("remove it"));
        }
    }

    fn validate_times(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let limit = time_limit_s(&self.time);
        if limit.is_none() {
            let message = format!("{:?} is not a time limit of Slurm", self.time);
            problems.push(Problem::error(field("time"), message).help(time::FORMS));
        }
        if let Some(Err(message)) = self.signal.as_deref().map(SlurmSignal::parse) {
            problems.push(Problem::error(field("signal"), message));
        }
        if self.signal.is_some() && self.signal_s.is_some() {
            problems.push(Problem::error(field("signal_s"), "both `signal` and `signal_s` are set").help("remove one of them"));
        }
        let name = if self.signal.is_some() { "signal" } else { "signal_s" };
        match (limit, self.stop_signal()) {
            (Some(limit), Some(stop)) if limit > 0 && stop.seconds >= limit => problems.push(
                Problem::error(
                    field(name),
                    format!("the signal comes {} s before the limit, but the limit is {limit} s", stop.seconds),
                )
                .help("raise `time`, or lower the seconds"),
            ),
            (_, None) if self.max_requeues.is_some_and(|count| count > 0) && self.signal.is_none() => problems.push(
                Problem::error(
                    field("max_requeues"),
                    "without a signal before the time limit, the job is not requeued when it reaches it",
                )
                .help("set `signal_s: 120`, or remove `max_requeues`"),
            ),
            _ => {}
        }
        if self.signal_s.is_some_and(|seconds| seconds > 65_535) {
            problems.push(Problem::error(field("signal_s"), "Slurm accepts at most 65535 seconds"));
        }
        if !(1..=3600).contains(&self.status_interval_s) {
            let message = format!("`status_interval_s` is {}, it must be from 1 to 3600", self.status_interval_s);
            problems.push(Problem::error(field("status_interval_s"), message));
        }
        let day = 86_400;
        for (name, seconds) in [
            ("progress_interval_s", self.progress_interval_s),
            ("wait_time_for_group_job", self.wait_time_for_group_job),
            ("monitor_group_job_wait_time", self.monitor_group_job_wait_time),
        ] {
            if seconds > day {
                let message = format!("`{name}` {seconds} is longer than a day ({day} seconds)");
                problems.push(Problem::error(field(name), message));
            }
        }
    }

    /// Names and other values that become options of sbatch.
    fn validate_texts(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let words = [
            ("account", &self.account),
            ("partition", &self.partition),
            ("qos", &self.qos),
            ("reservation", &self.reservation),
            ("constraint", &self.constraint),
            ("exclude", &self.exclude),
            ("gres", &self.gres),
            ("network", &self.network),
        ];
        for (name, text) in words {
            if let Some(text) = text
                && (text.is_empty()
                    || text.starts_with('-')
                    || text.chars().any(|c| c.is_whitespace() || c.is_control() || "'\"\\#".contains(c)))
            {
                let message = format!("{text:?} is not a value that Slurm accepts for `{name}`");
                problems.push(Problem::error(field(name), message).help("remove blanks and quotes, or remove the field"));
            }
        }
        let lines = [
            ("comment", &self.comment),
            ("job_name_prefix", &self.job_name_prefix),
            ("job_details.job_name", &self.job_details.job_name),
            ("container_image", &self.container_image),
            ("rank_program", &self.rank_program),
            ("libtorch", &self.libtorch),
        ];
        for (name, text) in lines {
            if text.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
                problems.push(Problem::error(
                    field(name),
                    format!("`{name}` must be one line without control characters"),
                ));
            }
        }
        for (name, text) in [
            ("container_image", &self.container_image),
            ("job_details.job_name", &self.job_details.job_name),
            ("rank_program", &self.rank_program),
        ] {
            if text.as_ref().is_some_and(String::is_empty) {
                problems.push(Problem::error(field(name), format!("`{name}` is empty")).help("remove it, or give a value"));
            }
        }
        if !["append", "truncate"].contains(&self.open_mode.as_str()) {
            let message = format!("`open_mode` is {:?}", self.open_mode);
            problems.push(Problem::error(field("open_mode"), message).help("write `append` or `truncate`"));
        }
        let lists = [
            ("modules", self.modules.as_slice()),
            ("srun_args", self.srun_args.as_deref().unwrap_or_default()),
            ("container_mounts", &self.container_mounts),
        ];
        for (name, texts) in lists {
            for (index, text) in texts.iter().enumerate() {
                if text.is_empty() || text.contains('\0') || (name != "srun_args" && text.chars().any(char::is_control)) {
                    problems.push(Problem::error(
                        format!("{}[{index}]", field(name)),
                        format!("{text:?} is not valid here"),
                    ));
                }
            }
        }
        for (index, mount) in self.container_mounts.iter().enumerate() {
            if mount.contains(',') {
                let message = format!("{mount:?}: a comma separates mounts");
                problems.push(Problem::error(format!("{}[{index}]", field("container_mounts")), message).help("write one mount per item"));
            }
        }
        if self.setup_lines.as_ref().is_some_and(|lines| lines.contains('\0')) {
            problems.push(Problem::error(field("setup_lines"), "`setup_lines` holds a NUL character"));
        }
        if let Some(version) = &self.slurm_version
            && Self::parse_version(version).is_none()
        {
            let message = format!("{version:?} is not a version of Slurm");
            problems.push(Problem::error(field("slurm_version"), message).help("write it as `sbatch --version` prints it, as `23.02`"));
        }
    }

    fn validate_resources(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
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
        if self.het_group_indices.is_some() && !self.heterogeneous {
            problems.push(
                Problem::error(field("het_group_indices"), "`het_group_indices` is set, but `heterogeneous` is not")
                    .help("set `heterogeneous: true`"),
            );
        }
    }

    fn validate_dependencies(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        if !DEPENDENCY_TYPES.contains(&self.dependency_type.as_str()) {
            let message = format!("`dependency_type` is {:?}", self.dependency_type);
            problems.push(Problem::error(field("dependency_type"), message).help(format!("use one of {}", DEPENDENCY_TYPES.join(", "))));
        }
        for (index, job) in self.dependencies.iter().enumerate() {
            if job_number(job).is_none() {
                let message = format!("{job:?} is not the number of a job");
                let help = "write the number that sbatch printed, as `123` or `123_4`; tasks of an experiment depend on each other by `depends_on`";
                problems.push(Problem::error(format!("{}[{index}]", field("dependencies")), message).help(help));
            }
        }
        if self.dependency_type == "singleton" && !self.dependencies.is_empty() {
            let message = "`singleton` waits for the jobs of the same name and user, so it has no `dependencies`";
            problems.push(Problem::error(field("dependencies"), message).help("remove them"));
        }
    }

    fn validate_parameters(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        for (name, value) in self.additional_parameters.iter().flatten() {
            let place = format!(
                "{}.\"{}\"",
                field("additional_parameters"),
                name.replace('\\', "\\\\").replace('"', "\\\"")
            );
            let option = option_name(name);
            let is_name = !option.is_empty() && option.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !option.starts_with('-');
            if !is_name {
                problems.push(Problem::error(place, format!("{name:?} is not the name of an option of sbatch")));
            } else if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == option)
                && value.is_some()
            {
                problems.push(Problem::error(place, format!("--{option} follows from the run")).help(format!("use the field `{field}`")));
            } else if OURS.contains(&option.as_str()) {
                problems.push(Problem::error(place, format!("--{option} is set by the launcher")).help("remove it"));
            } else if let Some(SlurmParameter::Text(text)) = value
                && text.chars().any(char::is_control)
            {
                problems.push(Problem::error(place, "the value must be one line without control characters"));
            }
        }
    }

    fn validate_environment(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        let names = self.env_from.iter().map(|name| ("env_from", name)).enumerate();
        let container = self.container_env.iter().flatten().map(|name| ("container_env", name)).enumerate();
        for (index, (list, name)) in names.chain(container) {
            let path = format!("{}[{index}]", field(list));
            problems.extend(variable_name_error(name).map(|message| Problem::error(path, message)));
        }
        if self.container_image.is_none() && (!self.container_mounts.is_empty() || self.container_env.is_some()) {
            let name = if self.container_env.is_some() {
                "container_env"
            } else {
                "container_mounts"
            };
            problems.push(
                Problem::error(field(name), format!("`{name}` has no effect without `container_image`"))
                    .help("remove it, or set the image"),
            );
        }
    }

    /// Returns year and month of a version, `23.02.5` or `slurm 23.02.5`.
    fn parse_version(text: &str) -> Option<(u32, u32)> {
        let text = text.trim();
        let text = text.strip_prefix("slurm").map_or(text, str::trim_start);
        let mut parts = text.split(['.', '-']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }

    /// Returns true if the cluster's Slurm is older than `version` (year, month).
    pub fn is_older_than(&self, version: (u32, u32)) -> bool {
        let own = self.slurm_version.as_deref().and_then(Self::parse_version);
        own.is_some_and(|own| own < version)
    }

    /// Returns the GPUs of each node that the config requests; `None`: those of the run.
    pub fn gpus(&self) -> Option<u32> {
        self.gpus_per_node.or_else(|| self.gres.as_deref().and_then(gres_gpus))
    }
}

/// Returns the name of an option of sbatch as on its command line: `mail_type` is `mail-type`.
pub(crate) fn option_name(name: &str) -> String {
    name.trim_start_matches("--").replace('_', "-")
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

/// Returns the number of a job if it has the form `123` or `123_4`.
fn job_number(text: &str) -> Option<&str> {
    let (job, index) = text.split_once('_').map_or((text, None), |(job, index)| (job, Some(index)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(job) && index.is_none_or(digits)).then_some(text)
}
