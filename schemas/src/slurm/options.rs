//! Validation of names, texts and further options of sbatch.

use super::{SlurmExecutorConfig, SlurmParameter};
use crate::node_path::{folder_problem, program_problem};
use crate::validate::Problem;

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

impl SlurmExecutorConfig {
    /// Names and other values that become options of sbatch.
    pub(super) fn validate_texts(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
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
        let place = "on the nodes";
        let libtorch = self.libtorch.as_deref();
        problems.extend(libtorch.and_then(|path| folder_problem(field("libtorch"), path, place)));
        let program = self.rank_program.as_deref();
        problems.extend(program.and_then(|path| program_problem(field("rank_program"), path, place)));
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

    pub(super) fn validate_parameters(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
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
}

/// Returns the name of an option of sbatch as on its command line: `mail_type` is `mail-type`.
fn option_name(name: &str) -> String {
    name.trim_start_matches("--").replace('_', "-")
}
