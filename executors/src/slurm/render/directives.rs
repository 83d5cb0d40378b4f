//! The options of sbatch.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use neva_schemas::{SlurmExecutorConfig, SlurmParameter};

use super::{
    shape::Shape,
    text::{directive_value, path_text},
};
use crate::error::ExecutorError;

/// Options of sbatch, by name.
#[derive(Debug, Default)]
pub(super) struct Directives(BTreeMap<String, SlurmParameter>);

impl Directives {
    /// Returns the options of a job with the batch script's output in `log`.
    pub(super) fn new(config: &SlurmExecutorConfig, name: &str, shape: Shape, log: &Path) -> Result<Self, ExecutorError> {
        let mut options = Self::default();
        options.set("job-name", job_name(config, name));
        options.set("nodes", shape.nodes);
        options.set("ntasks-per-node", shape.tasks_per_node);
        options.set("open-mode", &config.open_mode);
        options.set("output", path_text(log)?);
        options.set("time", &config.time);
        options.0.insert("requeue".to_owned(), SlurmParameter::Flag(true));

        let texts = [
            ("account", &config.account),
            ("comment", &config.comment),
            ("constraint", &config.constraint),
            ("exclude", &config.exclude),
            ("gres", &config.gres),
            ("mem", &config.mem),
            ("mem-per-cpu", &config.mem_per_cpu),
            ("mem-per-gpu", &config.mem_per_gpu),
            ("network", &config.network),
            ("partition", &config.partition),
            ("qos", &config.qos),
            ("reservation", &config.reservation),
        ];
        for (name, text) in texts {
            text.iter().for_each(|text| options.set(name, text));
        }
        let counts = [
            ("cpus-per-gpu", config.cpus_per_gpu),
            ("cpus-per-task", config.cpus_per_task),
            ("gpus-per-task", config.gpus_per_task),
            ("segment", config.segment),
        ];
        for (name, count) in counts {
            count.iter().for_each(|count| options.set(name, count));
        }
        if let Some((name, value)) = shape.gpu_option(config) {
            options.0.insert(name.to_owned(), value);
        }
        if let Some(exclusive) = &config.exclusive {
            options.0.insert("exclusive".to_owned(), exclusive.clone());
        }
        if let Some(stop) = config.stop_signal() {
            let flag = if stop.to_script { "B:" } else { "" };
            let name = stop.signal.name().trim_start_matches("SIG");
            options.set("signal", format!("{flag}{name}@{}", stop.seconds));
        }
        for (name, value) in config.additional_parameters.iter().flatten() {
            let name = name.trim_start_matches("--").replace('_', "-");
            match value {
                Some(value) => options.0.insert(name, value.clone()),
                None => options.0.remove(&name),
            };
        }
        if options.0.contains_key("no-requeue") {
            options.0.remove("requeue");
        }
        Ok(options)
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn set(&mut self, name: &str, value: impl ToString) {
        self.0.insert(name.to_owned(), SlurmParameter::Text(value.to_string()));
    }

    /// Returns the `#SBATCH` lines, sorted by name.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            let _ = match value {
                SlurmParameter::Flag(false) => Ok(()),
                SlurmParameter::Flag(true) => writeln!(text, "#SBATCH --{name}"),
                SlurmParameter::Text(value) => writeln!(text, "#SBATCH --{name}={}", directive_value(value)),
            };
        }
        text
    }
}

fn job_name(config: &SlurmExecutorConfig, name: &str) -> String {
    match &config.job_details.job_name {
        Some(name) => name.clone(),
        None => format!("{}{name}", config.job_name_prefix.as_deref().unwrap_or_default()),
    }
}

/// Returns the command line that submits the script in `dir`. The launcher adds the comment with its key.
pub(super) fn submit_argv(config: &SlurmExecutorConfig, script: &Path) -> Result<Vec<String>, ExecutorError> {
    let mut argv = vec!["sbatch".to_owned(), "--parsable".to_owned(), "--export=ALL".to_owned()];
    let dependency = match (config.dependency_type.as_str(), config.dependencies.as_slice()) {
        ("singleton", _) => Some("singleton".to_owned()),
        (_, []) => None,
        (kind, jobs) => Some(format!("{kind}:{}", jobs.join(":"))),
    };
    if let Some(dependency) = dependency {
        argv.push(format!("--dependency={dependency}"));
        // Otherwise a job whose dependency failed is pending for ever.
        argv.push("--kill-on-invalid-dep=yes".to_owned());
    }
    argv.push(path_text(script)?);
    Ok(argv)
}
