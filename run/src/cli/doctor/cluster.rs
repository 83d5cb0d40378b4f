//! Checks of a cluster, through the executor's tunnel: what a run on it needs.

use std::time::Duration;

use neva_executors::{
    ExecutorError, SlurmExecutor, TunnelError,
    tunnel::{CommandEnd, CommandOutput, TunnelCommand},
};

use super::{
    checks::Checks,
    parse::parse_settings,
    site::{Cluster, is_older},
};

/// Time of one of Slurm's programs; a controller that is away takes its own timeout, 10 s by default, several times.
const SLURM: Duration = Duration::from_secs(60);

/// Oldest Slurm whose options are all known.
const OLDEST: (u32, u32) = (19, 5);

/// What to do about a login node that says nothing.
pub(super) const UNREACHABLE: &str = "check the network, and the executor's `tunnel`";

/// Checks the cluster of an executor. The checks end at the first that the later ones need.
pub(super) async fn check(executor: &SlurmExecutor) -> (Checks, Cluster) {
    let mut doctor = Doctor {
        executor,
        checks: Checks::default(),
        cluster: Cluster::default(),
    };
    // The reason of an end is the last check.
    let _: Option<()> = doctor.run().await;
    (doctor.checks, doctor.cluster)
}

/// Checks so far.
pub(super) struct Doctor<'a> {
    pub(super) executor: &'a SlurmExecutor,
    pub(super) checks: Checks,
    pub(super) cluster: Cluster,
}

impl Doctor<'_> {
    /// Runs the checks in order; `None` where one ends them.
    async fn run(&mut self) -> Option<()> {
        self.login().await?;
        self.sbatch().await?;
        self.controller().await?;
        self.accounting().await?;
        self.partitions().await?;
        self.gpus()?;
        let file = self.write_shared().await;
        self.node(file?).await
    }

    /// Runs a program on the login node.
    pub(super) async fn command(&self, argv: &[&str]) -> Result<CommandOutput, ExecutorError> {
        let command = TunnelCommand::new(argv.iter().copied()).deadline(SLURM);
        match self.executor.tunnel.run(&command).await {
            // A program that is not there is one that fails, as over SSH.
            Err(ExecutorError::Tunnel(TunnelError::Start { reason, program, .. })) => Ok(CommandOutput {
                end: CommandEnd::Exit(127),
                stdout: Vec::new(),
                stderr: format!("{program}: {reason}").into_bytes(),
            }),
            result => result,
        }
    }

    async fn login(&mut self) -> Option<()> {
        const NAME: &str = "login";
        match self.command(&["sh", "-c", "id -un; hostname"]).await {
            Ok(output) if output.is_success() => {
                let words = text(&output.stdout);
                let (user, host) = words.split_once('\n').unwrap_or((&words, "an unknown host"));
                let place = self.executor.tunnel.place();
                self.checks.ok(NAME, format!("{user} on {} ({place})", host.trim()));
                Some(())
            }
            Ok(output) => self
                .checks
                .problem(NAME, last_line(&output), "use an account whose login shell runs commands"),
            Err(error) => self.checks.error(NAME, &error, UNREACHABLE),
        }
    }

    async fn sbatch(&mut self) -> Option<()> {
        const NAME: &str = "sbatch";
        let output = match self.command(&["sbatch", "--version"]).await {
            Ok(output) => output,
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
        };
        if !output.is_success() {
            let help = "run this on a login node, or name one with the executor's `tunnel`; where a module brings Slurm, set its \
                        `pre_command: module load slurm`, or `shell: /bin/bash`, which reads the profile";
            return self.checks.problem(NAME, last_line(&output), help);
        }
        let words = text(&output.stdout);
        self.cluster.version = words.trim_start_matches("slurm-wlm").trim_start_matches("slurm").trim().to_owned();
        let version = self.cluster.version.clone();
        let (major, minor) = OLDEST;
        if is_older(&version, major, minor) && self.executor.config.slurm_version.is_none() {
            let detail = format!("Slurm {version} does not have all options");
            self.checks
                .problem(NAME, detail, format!("set `slurm_version: \"{version}\"` in the executor"));
        } else {
            self.checks.ok(NAME, format!("Slurm {version}"));
        }
        Some(())
    }

    async fn controller(&mut self) -> Option<()> {
        const NAME: &str = "controller";
        let output = match self.command(&["scontrol", "show", "config"]).await {
            Ok(output) => output,
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
        };
        if !output.is_success() {
            let help = "ask the cluster's administrators: Slurm does not answer its own programs";
            return self.checks.problem(NAME, last_line(&output), help);
        }
        self.cluster.settings = parse_settings(&text(&output.stdout));
        let setting = |name: &str| self.cluster.settings.get(name).cloned();
        let name = setting("ClusterName").unwrap_or_else(|| "a cluster without a name".to_owned());
        let requeue = match setting("JobRequeue").as_deref() {
            Some("0") => "; jobs are not requeued after the loss of a node unless they ask for it",
            _ => "",
        };
        self.checks.ok(NAME, format!("{name} answers{requeue}"));
        Some(())
    }

    async fn accounting(&mut self) -> Option<()> {
        const NAME: &str = "accounting";
        let storage = self.cluster.settings.get("AccountingStorageType").cloned().unwrap_or_default();
        if !storage.contains("slurmdbd") {
            let detail = "none: the states of ended jobs come from the controller and from the jobs' folders";
            self.checks.ok(NAME, detail);
            return Some(());
        }
        let output = match self.command(&["sacct", "-X", "-n", "-P", "-S", "now-1minute", "-o", "jobid"]).await {
            Ok(output) => output,
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
        };
        if !output.is_success() {
            let detail = format!("sacct fails, though the cluster has accounting: {}", last_line(&output));
            self.checks
                .problem(NAME, detail, "ask the cluster's administrators; jobs run without it");
            return Some(());
        }
        let associations = self
            .command(&["sh", "-c", "sacctmgr -n -P show assoc user=\"$(id -un)\" format=account"])
            .await;
        let associations = associations
            .ok()
            .filter(CommandOutput::is_success)
            .map_or_else(String::new, |output| text(&output.stdout));
        let mut accounts: Vec<_> = associations
            .lines()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        accounts.sort();
        accounts.dedup();
        let enforced = self
            .cluster
            .settings
            .get("AccountingStorageEnforce")
            .is_some_and(|value| value.contains("associations"));
        self.cluster.accounts.clone_from(&accounts);
        let list = accounts.join(", ");
        match (&self.executor.config.account, accounts.as_slice()) {
            (Some(account), [_, ..]) if !accounts.contains(account) => {
                return self.checks.problem(
                    NAME,
                    format!("the account {account} is not yours"),
                    format!("set `account` to one of {list}"),
                );
            }
            (None, []) if enforced => {
                let help = "ask the cluster's administrators for an account: sbatch will refuse jobs without one";
                return self.checks.problem(NAME, "jobs need an account, and you have none", help);
            }
            (_, []) => self.checks.ok(NAME, "slurmdbd; no accounts of yours"),
            _ => self.checks.ok(NAME, format!("slurmdbd; your accounts: {list}")),
        }
        Some(())
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Returns the last line of a failed program's error, or how it ended.
pub(super) fn last_line(output: &CommandOutput) -> String {
    let stderr = text(&output.stderr);
    match (stderr.lines().last(), &output.end) {
        (Some(line), _) => line.to_owned(),
        (None, CommandEnd::Exit(code)) => format!("it ended with exit code {code}"),
        (None, CommandEnd::Signal(signal)) => format!("it was killed by SIG{signal}"),
    }
}
