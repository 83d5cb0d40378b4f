//! Validation of the container executor.

use super::{DockerExecutorConfig, Ulimit, Volume, memory_size};
use crate::node_path::{folder_problem, program_problem};
use crate::validate::{Problem, Validate};
use crate::variable::{validate_variable, variable_name_error};

/// Maximum wait for ranks to exit, in seconds: a day.
const MAX_WAIT_S: u64 = 86_400;
/// Names of a health check.
const HEALTH: &[&str] = &["test", "interval", "timeout", "retries", "start_period"];

impl Validate for DockerExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        if self.container_image.trim().is_empty() {
            problems.push(
                Problem::error(field("container_image"), "no image is named")
                    .help("add `--set executor.container_image=IMAGE`; docs/containers.md builds one"),
            );
        }
        if self.ray_template.is_some() {
            let message = "neva-run has no Ray: the job's script starts the ranks, which talk through NCCL or Gloo";
            problems.push(
                Problem::error(field("ray_template"), message)
                    .help("remove it; start a Ray cluster in a `run.Script` of its own if you need one"),
            );
        }
        self.validate_container(&field, problems);
        self.validate_launcher(&field, problems);
        for (name, value) in [("settle_s", self.settle_s), ("grace_s", self.grace_s)] {
            if value > MAX_WAIT_S {
                let message = format!("`{name}` {value} is longer than a day ({MAX_WAIT_S} seconds)");
                problems.push(Problem::error(field(name), message));
            }
        }
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        for (index, name) in self.env_from.iter().enumerate() {
            let path = format!("{}[{index}]", field("env_from"));
            problems.extend(variable_name_error(name).map(|message| Problem::error(path, message)));
        }
        self.packager.validate(&field("packager"), problems);
    }
}

impl DockerExecutorConfig {
    fn validate_container(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        if self.ntasks_per_node == Some(0) {
            problems.push(Problem::error(
                field("ntasks_per_node"),
                "`ntasks_per_node` is 0, it must be at least 1",
            ));
        }
        if self.num_gpus.is_some_and(|count| count < -1) {
            problems.push(Problem::error(
                field("num_gpus"),
                "`num_gpus` is a number of GPUs, or -1 for all of them",
            ));
        }
        let place = "in the container";
        let libtorch = self.libtorch.as_deref();
        problems.extend(libtorch.and_then(|path| folder_problem(field("libtorch"), path, place)));
        match self.rank_program.as_deref() {
            Some("") => problems.push(
                Problem::error(field("rank_program"), "`rank_program` is empty").help("remove it, or name the program in the container"),
            ),
            program => problems.extend(program.and_then(|path| program_problem(field("rank_program"), path, place))),
        }
        if let Some(size) = self.shm_size.as_ref().filter(|size| memory_size(size).is_none()) {
            let message = format!("{size:?} is not an amount of memory");
            problems.push(Problem::error(field("shm_size"), message).help("write a number with k, m or g, as `16g`"));
        }
        for (index, text) in self.ulimits.iter().enumerate() {
            if Ulimit::parse(text).is_none() {
                let message = format!("{text:?} is not a limit");
                problems.push(
                    Problem::error(format!("{}[{index}]", field("ulimits")), message)
                        .help("write NAME:SOFT:HARD, as `memlock:-1:-1`, or NAME=LIMIT"),
                );
            }
        }
        for (index, text) in self.volumes.iter().enumerate() {
            if let Err(message) = Volume::parse(text) {
                problems.push(
                    Problem::error(
                        format!("{}[{index}]", field("volumes")),
                        format!("{text:?} is not a mount: {message}"),
                    )
                    .help("write SOURCE:TARGET with absolute paths, as `/data:/data:ro`"),
                );
            }
        }
        for name in self.healthcheck.keys().filter(|name| !HEALTH.contains(&name.as_str())) {
            let message = format!("a health check has no {name:?}");
            problems.push(Problem::error(field("healthcheck"), message).help(format!("use {}", HEALTH.join(", "))));
        }
        if let Some(host) = self.docker_host.as_ref().filter(|host| !is_socket(host)) {
            let message = format!("{host:?} is not a socket of this machine");
            problems
                .push(Problem::error(field("docker_host"), message).help(
                    "write `unix:///run/podman/podman.sock`; for other machines use `run.SlurmExecutor` or `run.KubernetesExecutor`",
                ));
        }
    }

    fn validate_launcher(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let Some(settings) = self.launcher.as_ref().and_then(|launcher| launcher.settings()) else {
            return;
        };
        if settings.rdzv_backend != "c10d" {
            let message = format!("ranks meet through c10d's store, not {:?}", settings.rdzv_backend);
            problems.push(Problem::error(field("launcher.rdzv_backend"), message).help("remove it"));
        }
        if settings.nsys_profile {
            problems.push(
                Problem::error(
                    field("launcher.nsys_profile"),
                    "the container executor does not start the nsys profiler",
                )
                .help("remove it; `run.SlurmExecutor` has it, and `rank_program` may name a script that starts nsys"),
            );
        }
    }
}

/// Returns true for the address or the path of a Unix socket.
fn is_socket(host: &str) -> bool {
    host.strip_prefix("unix://").unwrap_or(host).starts_with('/')
}
