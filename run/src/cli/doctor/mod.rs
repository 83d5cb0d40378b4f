//! `neva-run doctor`: checks that this machine, or a cluster, has everything that a run needs.

mod cluster;
mod kubernetes;
mod node;
mod parse;
mod partition;
mod pod;
mod site;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use clap::{Args, ValueHint};
use neva_schemas::{ExecutorConfig, KubernetesExecutorConfig, SlurmExecutorConfig, TunnelConfig};
use serde::Serialize;

use super::{Globals, OutputArgs, export::write_file, report::Report};
use crate::{
    block_on,
    config::{Origin, Override, to_node, to_yaml_string},
    environment,
    error::RunError,
    executor,
    program::{self, LIBTORCH_VERSION, RankVersion},
    workspace::WORKSPACE_FILE,
};

const EXAMPLES: &str = "\
Examples:
  neva-run doctor                   check before the first run
  neva-run doctor --output json     for programs; exit code 3 if something is missing
  neva-run doctor --executor hpc.yaml
                                    check a cluster: login, Slurm, partition, GPUs, shared folder, libtorch on a node
  neva-run doctor --executor kubernetes.yaml
                                    check a cluster: permissions, nodes, GPUs, volumes, image, libtorch in a pod
  neva-run doctor --executor slurm --write site.yaml
                                    draft an executor file for the cluster of this login node";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Check the cluster of this executor: a name of the workspace file, or an executor file
    #[arg(long, value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
    executor: Option<String>,
    /// Draft an executor file for a Slurm cluster, from what sinfo and scontrol say
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "executor")]
    write: Option<PathBuf>,
    /// Override a value of the executor: `executor.partition=gpu`
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "executor")]
    sets: Vec<String>,
    /// Replace an existing file
    #[arg(long, requires = "write")]
    yes: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Result of one check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
    help: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: String) -> Self {
        Self {
            name,
            ok: true,
            detail,
            help: None,
        }
    }

    fn missing(name: &'static str, error: &RunError) -> Self {
        Self {
            name,
            ok: false,
            detail: error.to_string(),
            help: error.advice(),
        }
    }
}

pub(super) fn doctor(args: &DoctorArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if let Some(name) = &args.executor {
        let overrides = args.sets.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
        let selected = executor::select(Some(name), globals.workspace()?.as_ref(), &overrides)?;
        report.warnings(&selected.warnings);
        match &selected.config {
            ExecutorConfig::Slurm(slurm) => return cluster_checks(slurm, args, report),
            ExecutorConfig::Kubernetes(kubernetes) => return kubernetes_checks(kubernetes, args, report),
            ExecutorConfig::Local(_) => {}
        }
    }
    let mut checks = rank_program();
    checks.push(workspace(globals));
    checks.push(machine());
    checks.push(jpeg());
    checks.extend(disk());
    finish(&checks, report)
}

/// Checks a cluster, and drafts an executor file for it if that is wanted.
fn cluster_checks(slurm: &SlurmExecutorConfig, args: &DoctorArgs, report: &mut Report) -> Result<(), RunError> {
    let executor = executor::slurm_executor(slurm)?;
    let (checks, cluster) = block_on(cluster::check(&executor))?;
    if let Some(file) = &args.write
        && !cluster.partitions.is_empty()
    {
        write_file(file, &site::draft(&cluster, &tunnel_lines(&slurm.tunnel)?), args.yes)?;
        report.note(format_args!("wrote {}: check its values", file.display()));
    }
    finish(&checks, report)
}

/// Checks a Kubernetes cluster.
fn kubernetes_checks(config: &KubernetesExecutorConfig, args: &DoctorArgs, report: &mut Report) -> Result<(), RunError> {
    if args.write.is_some() {
        let message = "`--write` drafts files for Slurm only: docs/kubernetes.md has one for Kubernetes to start from";
        return Err(RunError::Argument(message.to_owned()));
    }
    let executor = executor::kubernetes_executor(config);
    finish(&block_on(kubernetes::check(&executor))?, report)
}

/// Returns the lines of a tunnel in an executor file, without the values that are defaults.
fn tunnel_lines(tunnel: &TunnelConfig) -> Result<String, RunError> {
    if *tunnel == TunnelConfig::default() {
        return Ok(String::new());
    }
    let yaml = to_yaml_string(&to_node(tunnel, Origin::Default)?);
    let defaults = match tunnel {
        TunnelConfig::Local(_) => TunnelConfig::default(),
        TunnelConfig::Ssh(_) => TunnelConfig::Ssh(neva_schemas::SshTunnelConfig::default()),
    };
    let defaults = to_yaml_string(&to_node(&defaults, Origin::Default)?);
    let own = yaml
        .lines()
        .filter(|line| line.starts_with("_target_") || !defaults.lines().any(|default| default == *line));
    Ok("tunnel:\n".to_owned() + &own.map(|line| format!("  {line}\n")).collect::<String>())
}

/// Prints the checks.
fn finish(checks: &[Check], report: &mut Report) -> Result<(), RunError> {
    let missing = checks.iter().filter(|check| !check.ok).count();
    report.result(Checks(checks), &checks);
    if missing > 0 {
        Err(RunError::ChecksFailed { missing })
    } else {
        Ok(())
    }
}

/// Checks that the rank program exists, starts, and links the libtorch that it was built for.
fn rank_program() -> Vec<Check> {
    const NAME: &str = "neva-rank";
    let version = program::find_here().and_then(|path| {
        Ok((block_on(program::version(&path))??, path))
    });
    match version {
        Ok((version, path)) => vec![
            Check::ok(NAME, format!("{} {}", path.display(), version.version)),
            libtorch(&version),
            Check::ok(
                "gpu",
                if version.cuda {
                    "usable".to_owned()
                } else {
                    "none: ranks compute on the CPU".to_owned()
                },
            ),
        ],
        Err(error) => vec![Check::missing(NAME, &error)],
    }
}

fn libtorch(version: &RankVersion) -> Check {
    let fits = version
        .libtorch
        .strip_prefix(LIBTORCH_VERSION)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()));
    let help = (!fits).then(|| format!("run `make setup`, or let LIBTORCH name a libtorch {LIBTORCH_VERSION}"));
    let needed = if fits {
        String::new()
    } else {
        format!(", needs {LIBTORCH_VERSION}")
    };
    Check {
        name: "libtorch",
        ok: fits,
        detail: format!("{}{needed}", version.libtorch),
        help,
    }
}

/// Reports the workspace file and its executors.
fn workspace(globals: &Globals) -> Check {
    const NAME: &str = "workspace";
    match globals.workspace() {
        Ok(None) if globals.no_workspace => Check::ok(NAME, "ignored".to_owned()),
        Ok(None) => Check::ok(NAME, format!("none: there is no {WORKSPACE_FILE} here or above")),
        Ok(Some(workspace)) => {
            let names: Vec<_> = workspace.settings.executors.keys().map(String::as_str).collect();
            let executors = if names.is_empty() {
                String::new()
            } else {
                format!(", executors {}", names.join(", "))
            };
            Check::ok(NAME, format!("{}{executors}", workspace.file.display()))
        }
        Err(error) => Check {
            help: Some(format!(
                "`neva-run validate {WORKSPACE_FILE}` shows where; `--no-workspace` ignores the file"
            )),
            ..Check::missing(NAME, &error)
        },
    }
}

fn machine() -> Check {
    let cores = available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_kib(&text));
    let memory = memory.map_or_else(
        || "memory unknown".to_owned(),
        |kib| format!("{} of memory free", size(kib.saturating_mul(1024))),
    );
    Check::ok("machine", format!("{cores} cores, {memory}"))
}

/// Reports whether images are decoded by vector instructions. `neva-rank`, which decodes them, is built with `neva-run`.
fn jpeg() -> Check {
    let detail = if neva_data::has_jpeg_simd() {
        "decoded with vector instructions"
    } else {
        "decoded without vector instructions, about three times slower: install nasm, \
         run `cargo clean -p mozjpeg-sys --release`, build again"
    };
    Check::ok("jpeg", detail.to_owned())
}

/// Parses the line `MemAvailable:  123 kB` of /proc/meminfo, in KiB.
fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

fn disk() -> Option<Check> {
    let folder = environment::working_directory().ok()?;
    let space = rustix::fs::statvfs(Path::new(&folder)).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    Some(Check::ok("disk", format!("{} free in {}", size(free), folder.display())))
}

/// Formats bytes in the largest unit that fits.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let (unit, one) = units.into_iter().find(|(_, one)| bytes >= *one).unwrap_or(("bytes", 1));
    format!("{:.0} {unit}", bytes as f64 / one as f64)
}

struct Checks<'a>(&'a [Check]);

impl fmt::Display for Checks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|check| {
            let mark = if check.ok { "ok     " } else { "MISSING" };
            let help = check
                .help
                .as_ref()
                .map_or_else(String::new, |help| format!("\n                   {help}"));
            format!("{mark} {:<10} {}{help}", check.name, check.detail)
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}
