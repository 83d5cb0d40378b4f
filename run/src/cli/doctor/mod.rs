//! `neva-run doctor`: checks that this machine, or a cluster, has everything that a run needs.

mod checks;
mod cluster;
mod container;
mod kubernetes;
mod machine;
mod node;
mod parse;
mod partition;
mod pod;
mod site;

use std::path::PathBuf;

use clap::{Args, ValueHint};
use neva_schemas::{DockerExecutorConfig, ExecutorConfig, KubernetesExecutorConfig, SlurmExecutorConfig, TunnelConfig};

use self::{
    checks::Checks,
    machine::{disk, jpeg, machine, rank_program, workspace},
};
use super::{Globals, OutputArgs, export::write_file, report::Report};
use crate::{
    block_on,
    config::{Origin, Override, to_node, to_yaml_string},
    error::RunError,
    executor,
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
                                    draft an executor file for the cluster of this login node
  neva-run doctor --executor docker --set executor.container_image=neva-run
                                    check a container runtime: socket, image, GPU runtime, libtorch in the image";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Check the cluster or the container runtime of this executor: a name of the workspace file, or an executor file
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

pub(super) fn doctor(args: &DoctorArgs, globals: &Globals, report: &mut Report) -> Result<(), RunError> {
    if let Some(name) = &args.executor {
        let overrides = args.sets.iter().map(|set| Override::parse(set)).collect::<Result<Vec<_>, _>>()?;
        let selected = executor::select(Some(name), globals.workspace()?.as_ref(), &overrides)?;
        report.warnings(&selected.warnings);
        match &selected.config {
            ExecutorConfig::Local(_) => {}
            ExecutorConfig::Docker(docker) => return container_checks(docker, args, report),
            ExecutorConfig::Slurm(slurm) => return cluster_checks(slurm, args, report),
            ExecutorConfig::Kubernetes(kubernetes) => return kubernetes_checks(kubernetes, args, report),
        }
    }
    let mut checks = Checks::from_iter(rank_program());
    checks.extend([workspace(globals), machine(), jpeg()]);
    checks.extend(disk());
    finish(&checks, report)
}

/// Checks the container runtime of this machine, and the image.
fn container_checks(docker: &DockerExecutorConfig, args: &DoctorArgs, report: &mut Report) -> Result<(), RunError> {
    if args.write.is_some() {
        let text = "`--write` drafts executor files of clusters only; docs/containers.md has one for containers";
        return Err(RunError::Argument(text.to_owned()));
    }
    finish(&block_on(container::check(&executor::docker_executor(docker)))?, report)
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
fn finish(checks: &Checks, report: &mut Report) -> Result<(), RunError> {
    let missing = checks.missing();
    report.result(checks, checks);
    if missing > 0 {
        Err(RunError::ChecksFailed { missing })
    } else {
        Ok(())
    }
}
