//! Validation of the Slurm executor.

use super::{SlurmExecutorConfig, SlurmSignal, time, time_limit_s};
use crate::validate::{Problem, Validate};
use crate::variable::{validate_variable, variable_name_error};

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

    fn validate_dependencies(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        if !DEPENDENCY_TYPES.contains(&self.dependency_type.as_str()) {
            let message = format!("`dependency_type` is {:?}", self.dependency_type);
            problems.push(Problem::error(field("dependency_type"), message).help(format!("use one of {}", DEPENDENCY_TYPES.join(", "))));
        }
        for (index, job) in self.dependencies.iter().enumerate() {
            if job_number(job).is_none() {
                let message = format!("{job:?} is not the number of a job");
                let help = "write the number that sbatch printed, as `123` or `123_4`; tasks of an experiment depend on each other by \
                            `depends_on`";
                problems.push(Problem::error(format!("{}[{index}]", field("dependencies")), message).help(help));
            }
        }
        if self.dependency_type == "singleton" && !self.dependencies.is_empty() {
            let message = "`singleton` waits for the jobs of the same name and user, so it has no `dependencies`";
            problems.push(Problem::error(field("dependencies"), message).help("remove them"));
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
}

/// Returns the number of a job if it has the form `123` or `123_4`.
fn job_number(text: &str) -> Option<&str> {
    let (job, index) = text.split_once('_').map_or((text, None), |(job, index)| (job, Some(index)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(job) && index.is_none_or(digits)).then_some(text)
}
