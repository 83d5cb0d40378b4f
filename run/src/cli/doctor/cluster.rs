//! Checks of a cluster, through the executor's tunnel: what a run on it needs.

use std::{path::PathBuf, time::Duration};

use neva_executors::{
    ExecutorError, SlurmExecutor, TunnelError,
    tunnel::{CommandEnd, CommandOutput, TunnelCommand, TunnelFile},
};
use neva_schemas::time_limit_s;

use super::{
    Check,
    site::{Cluster, is_older, parse_partitions, parse_settings},
};
use crate::program::RankVersion;

/// Seconds for which the job on a node may wait for one.
const QUEUE_S: u64 = 120;

/// Time of one of Slurm's programs; a controller that is away takes its own timeout, 10 s by default, several times.
const SLURM: Duration = Duration::from_secs(60);

/// Oldest Slurm whose options are all known.
const OLDEST: (u32, u32) = (19, 5);

/// Checks the cluster of an executor. The checks end at the first that the later ones need.
pub(super) async fn check(executor: &SlurmExecutor) -> (Vec<Check>, Cluster) {
    let mut doctor = Doctor {
        executor,
        checks: Vec::new(),
        cluster: Cluster::default(),
    };
    // The reason of an end is the last check.
    let _: Option<()> = doctor.run().await;
    (doctor.checks, doctor.cluster)
}

struct Doctor<'a> {
    executor: &'a SlurmExecutor,
    checks: Vec<Check>,
    cluster: Cluster,
}

impl Doctor<'_> {
    /// Runs the checks in order; `None` where one ends them.
    async fn run(&mut self) -> Option<()> {
        self.login().await?;
        self.sbatch().await?;
        self.controller().await?;
        self.accounting().await;
        self.partitions().await;
        self.gpus();
        let file = self.write_shared().await;
        self.node(file?).await
    }

    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.checks.push(Check::ok(name, detail.into()));
    }

    /// Adds a problem, and ends the checks.
    fn problem(&mut self, name: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Option<()> {
        self.checks.push(Check {
            name,
            ok: false,
            detail: detail.into(),
            help: Some(help.into()),
        });
        None
    }

    fn executor_problem(&mut self, name: &'static str, error: &ExecutorError) -> Option<()> {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let detail = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        let help = error
            .help()
            .unwrap_or_else(|| "check the network, and the executor's `tunnel`".to_owned());
        self.problem(name, detail, help)
    }

    /// Runs a program on the login node.
    async fn command(&self, argv: &[&str]) -> Result<CommandOutput, ExecutorError> {
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
                self.ok(NAME, format!("{user} on {} ({place})", host.trim()));
                Some(())
            }
            Ok(output) => self.problem(NAME, last_line(&output), "use an account whose login shell runs commands"),
            Err(error) => self.executor_problem(NAME, &error),
        }
    }

    async fn sbatch(&mut self) -> Option<()> {
        const NAME: &str = "sbatch";
        let output = match self.command(&["sbatch", "--version"]).await {
            Ok(output) => output,
            Err(error) => return self.executor_problem(NAME, &error),
        };
        if !output.is_success() {
            let help = "run this on a login node, or name one with the executor's `tunnel`; where a module brings Slurm, set its \
                        `pre_command: module load slurm`, or `shell: /bin/bash`, which reads the profile";
            return self.problem(NAME, last_line(&output), help);
        }
        let words = text(&output.stdout);
        self.cluster.version = words.trim_start_matches("slurm-wlm").trim_start_matches("slurm").trim().to_owned();
        let version = self.cluster.version.clone();
        let (major, minor) = OLDEST;
        if is_older(&version, major, minor) && self.executor.config.slurm_version.is_none() {
            let detail = format!("Slurm {version} does not have all options");
            self.problem(NAME, detail, format!("set `slurm_version: \"{version}\"` in the executor"));
        } else {
            self.ok(NAME, format!("Slurm {version}"));
        }
        Some(())
    }

    async fn controller(&mut self) -> Option<()> {
        const NAME: &str = "controller";
        let output = match self.command(&["scontrol", "show", "config"]).await {
            Ok(output) => output,
            Err(error) => return self.executor_problem(NAME, &error),
        };
        if !output.is_success() {
            let help = "ask the cluster's administrators: Slurm does not answer its own programs";
            return self.problem(NAME, last_line(&output), help);
        }
        self.cluster.settings = parse_settings(&text(&output.stdout));
        let setting = |name: &str| self.cluster.settings.get(name).cloned();
        let name = setting("ClusterName").unwrap_or_else(|| "a cluster without a name".to_owned());
        let requeue = match setting("JobRequeue").as_deref() {
            Some("0") => "; jobs are not requeued after the loss of a node unless they ask for it",
            _ => "",
        };
        self.ok(NAME, format!("{name} answers{requeue}"));
        Some(())
    }

    async fn accounting(&mut self) {
        const NAME: &str = "accounting";
        let storage = self.cluster.settings.get("AccountingStorageType").cloned().unwrap_or_default();
        if !storage.contains("slurmdbd") {
            let detail = "none: the states of ended jobs come from the controller and from the jobs' folders";
            self.ok(NAME, detail);
            return;
        }
        let output = match self.command(&["sacct", "-X", "-n", "-P", "-S", "now-1minute", "-o", "jobid"]).await {
            Ok(output) => output,
            Err(error) => {
                self.executor_problem(NAME, &error);
                return;
            }
        };
        if !output.is_success() {
            let detail = format!("sacct fails, though the cluster has accounting: {}", last_line(&output));
            self.problem(NAME, detail, "ask the cluster's administrators; jobs run without it");
            return;
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
                self.problem(
                    NAME,
                    format!("the account {account} is not yours"),
                    format!("set `account` to one of {list}"),
                );
            }
            (None, []) if enforced => {
                let help = "ask the cluster's administrators for an account: sbatch will refuse jobs without one";
                self.problem(NAME, "jobs need an account, and you have none", help);
            }
            (_, []) => self.ok(NAME, "slurmdbd; no accounts of yours"),
            _ => self.ok(NAME, format!("slurmdbd; your accounts: {list}")),
        }
    }

    async fn partitions(&mut self) {
        const NAME: &str = "partition";
        let partitions = self.command(&["scontrol", "-o", "show", "partition"]).await;
        let nodes = self.command(&["sinfo", "-h", "-o", "%R|%D|%c|%m|%G|%T"]).await;
        let (partitions, nodes) = match (partitions, nodes) {
            (Ok(partitions), Ok(nodes)) => (partitions, nodes),
            (Err(error), _) | (_, Err(error)) => {
                self.executor_problem(NAME, &error);
                return;
            }
        };
        self.cluster.partitions = parse_partitions(&text(&partitions.stdout), &text(&nodes.stdout));
        let names = self.cluster.partition_names();
        let wanted = self.executor.config.partition.clone();
        let Some(partition) = self.cluster.partition(wanted.as_deref()).cloned() else {
            let detail = match &wanted {
                Some(wanted) => format!("there is no partition {wanted}"),
                None => "no partition is the default, and the executor names none".to_owned(),
            };
            self.problem(NAME, detail, format!("set `partition` to one of {names}"));
            return;
        };
        let name = &partition.name;
        let limits = [partition.max_time.as_deref(), Some(self.executor.config.time.as_str())];
        if let [Some(Some(limit)), Some(Some(time))] = limits.map(|time| time.map(time_limit_s))
            && time > limit
        {
            let max = partition.max_time.clone().unwrap_or_default();
            let detail = format!("`time` is {}, and {name} allows {max}", self.executor.config.time);
            self.problem(
                NAME,
                detail,
                format!("set `time: {max}` at most, with `signal_s` for a requeue, or another partition of {names}"),
            );
            return;
        }
        let account = self.executor.config.account.as_ref();
        if let Some(allowed) = &partition.allowed_accounts
            && !account.is_none_or(|account| allowed.contains(account))
        {
            let detail = format!("{name} is not open to the account {}", account.map_or("", String::as_str));
            self.problem(
                NAME,
                detail,
                format!("set `account` to one of {}, or another partition of {names}", allowed.join(", ")),
            );
            return;
        }
        if !partition.is_up {
            self.problem(
                NAME,
                format!("{name} is down"),
                format!("wait, or set `partition` to another one of {names}"),
            );
            return;
        }
        let usable = partition.nodes.iter().filter(|group| !is_away(&group.state));
        let usable: u32 = usable.map(|group| group.count).sum();
        if usable == 0 {
            let detail = format!("no node of {name} is in service");
            self.problem(
                NAME,
                detail,
                format!("`sinfo -R` says why; set `partition` to another one of {names}"),
            );
            return;
        }
        let limit = partition
            .max_time
            .as_ref()
            .map_or_else(String::new, |limit| format!(", at most {limit}"));
        let mut cores: Vec<_> = partition.nodes.iter().map(|group| (group.cpus, group.memory_mb / 1024)).collect();
        cores.sort_unstable();
        let size = cores
            .last()
            .map_or_else(String::new, |(cpus, memory)| format!(", up to {cpus} cores and {memory} GiB"));
        let others = if self.cluster.partitions.len() > 1 {
            format!("; all: {names}")
        } else {
            String::new()
        };
        self.ok(
            NAME,
            format!(
                "{name}: {usable} of {} nodes in service{size}{limit}{others}",
                partition.num_nodes()
            ),
        );
    }

    fn gpus(&mut self) {
        const NAME: &str = "gpu";
        let config = &self.executor.config;
        let partition = self.cluster.partition(config.partition.as_deref());
        let found = partition.and_then(super::site::Partition::gpus);
        let name = partition.map_or("the cluster", |partition| partition.name.as_str()).to_owned();
        let wanted = config.gpus_per_node.unwrap_or(0);
        let most = partition
            .into_iter()
            .flat_map(|partition| &partition.nodes)
            .map(super::site::NodeGroup::gpus)
            .max();
        let others: Vec<_> = self
            .cluster
            .partitions
            .iter()
            .filter(|other| other.gpus().is_some())
            .map(|other| other.name.clone())
            .collect();
        match found {
            Some(_) | None if wanted > most.unwrap_or(0) => {
                let detail = format!("`gpus_per_node` is {wanted}, and a node of {name} has {}", most.unwrap_or(0));
                let help = if others.is_empty() {
                    "set `gpus_per_node: 0`, or `gres` where the cluster has another name for them".to_owned()
                } else {
                    format!("partitions with GPUs: {}", others.join(", "))
                };
                self.problem(NAME, detail, help);
            }
            Some(found) => self.ok(NAME, found),
            None if others.is_empty() => self.ok(NAME, "none: ranks compute on the CPU, with `gpus_per_node: 0`"),
            None => self.ok(NAME, format!("none in {name}; partitions with GPUs: {}", others.join(", "))),
        }
    }

    /// Writes a file into the folder of runs, for a node to read.
    async fn write_shared(&mut self) -> Option<PathBuf> {
        const NAME: &str = "folder";
        let executor = self.executor;
        let folder = executor.config.tunnel.job_dir().cloned().unwrap_or_else(|| executor.folder.clone());
        let path = folder.join(".neva-run").join(format!("doctor-{}", std::process::id()));
        let file = TunnelFile {
            path: path.clone(),
            bytes: b"read on a node".to_vec(),
            mode: 0o644,
        };
        match executor.tunnel.write(&[file]).await {
            Ok(()) => Some(path),
            Err(error) => {
                self.executor_problem(NAME, &error);
                None
            }
        }
    }

    /// Runs a short job on a node: it reads the file and starts the rank program.
    async fn node(&mut self, file: PathBuf) -> Option<()> {
        const NAME: &str = "node";
        let executor = self.executor;
        if let Some(program) = &executor.upload
            && let Err(error) = executor.tunnel.upload(program, &executor.program).await
        {
            return self.executor_problem("neva-rank", &error);
        }
        let (program, path) = (executor.program.display().to_string(), file.display().to_string());
        let mut argv = srun(executor);
        argv.extend([
            "sh".to_owned(),
            "-c".to_owned(),
            node_script(executor),
            "doctor".to_owned(),
            path.clone(),
            program,
        ]);
        let command = TunnelCommand::new(argv).deadline(Duration::from_secs(QUEUE_S + 120));
        let ran = executor.tunnel.run(&command).await;
        // A file that stays is of a few bytes.
        let _ = self.command(&["rm", "-f", &path]).await;
        let output = match ran {
            Ok(output) => output,
            Err(error) => return self.executor_problem(NAME, &error),
        };
        let answer = text(&output.stdout);
        let lines = |key: &str| {
            answer
                .lines()
                .filter_map(|line| line.strip_prefix(key))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let Some(host) = lines("host ").pop() else {
            let detail = format!("no job ran on a node: {}", last_line(&output));
            let help = format!(
                "it may wait {QUEUE_S} s for a node: try again later, or with another partition or account; `squeue` shows the queue"
            );
            return self.problem(NAME, detail, help);
        };
        self.ok(NAME, format!("{host} ran a job"));
        let folder = file
            .parent()
            .and_then(|parent| parent.parent())
            .map(|folder| folder.display().to_string())
            .unwrap_or_default();
        if lines("file ").first().is_some_and(|content| content == "read on a node") {
            self.ok("folder", format!("{folder} is shared with the nodes"));
        } else {
            let help = "name a folder that the nodes share, as `/scratch/me/runs`: with the tunnel's `job_dir`, or where you start runs";
            self.problem(
                "folder",
                format!("{folder} is not shared: {host} does not see what was written there"),
                help,
            );
        }
        self.rank_program(&host, &lines("rank "), lines("code ").pop(), &last_line(&output))
    }

    fn rank_program(&mut self, host: &str, lines: &[String], code: Option<String>, words: &str) -> Option<()> {
        const NAME: &str = "neva-rank";
        let program = self.executor.program.display().to_string();
        let version = lines.iter().find_map(|line| serde_json::from_str::<RankVersion>(line).ok());
        let Some(version) = version else {
            let code = code.unwrap_or_default();
            let detail = match code.as_str() {
                "127" if words.contains("shared libraries") => format!("{program} does not start on {host}: {words}"),
                "126" | "127" => format!("{program} is not on {host}, or no program there"),
                _ => format!("{program} failed on {host} with exit code {code}: {words}"),
            };
            let help = "set `libtorch` to a folder of libtorch that the nodes see, `modules` or `setup_lines` to what brings it, and \
                        `rank_program` to a neva-rank on a shared file system";
            return self.problem(NAME, detail, help);
        };
        let gpu = if version.cuda {
            ", and a GPU is usable"
        } else {
            ", and no GPU is usable"
        };
        self.ok(
            NAME,
            format!("{program} {} with libtorch {}{gpu}", version.version, version.libtorch),
        );
        Some(())
    }
}

/// Returns srun and its options for a short job of one task.
fn srun(executor: &SlurmExecutor) -> Vec<String> {
    let config = &executor.config;
    let mut argv: Vec<String> = ["srun", "--nodes=1", "--ntasks=1", "--time=2", "--job-name=neva-run-doctor"]
        .map(str::to_owned)
        .into();
    argv.push(format!("--immediate={QUEUE_S}"));
    let options = [
        ("partition", &config.partition),
        ("account", &config.account),
        ("qos", &config.qos),
        ("reservation", &config.reservation),
        ("constraint", &config.constraint),
    ];
    argv.extend(
        options
            .into_iter()
            .filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))),
    );
    let has_gpus = config.gres.is_some() || config.gpus_per_node.is_some_and(|gpus| gpus > 0);
    if has_gpus {
        // One is enough to see whether it is usable.
        argv.push("--gres=gpu:1".to_owned());
    }
    argv
}

/// Returns the script on the node. Arguments: the shared file, the rank program.
fn node_script(executor: &SlurmExecutor) -> String {
    let config = &executor.config;
    let mut script = String::from("echo \"host $(hostname)\"\nfor i in 1 2 3 4 5; do [ -e \"$1\" ] && break; sleep 1; done\n");
    script += "echo \"file $(cat \"$1\" 2>/dev/null)\"\n";
    for module in &config.modules {
        script += &format!("module load {}\n", quoted(module));
    }
    if let Some(libtorch) = &config.libtorch {
        let folder = quoted(&format!("{}/lib", libtorch.trim_end_matches('/')));
        script += &format!("export LD_LIBRARY_PATH={folder}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n");
    }
    if let Some(lines) = &config.setup_lines {
        script += &format!("{}\n", lines.trim_end());
    }
    // With `sed`, each line is known as the program's; its exit code is kept.
    script += "out=$(\"$2\" version); code=$?\nprintf '%s\\n' \"$out\" | sed 's/^/rank /'\necho \"code $code\"\n";
    script
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns true for states in which a node takes no job.
fn is_away(state: &str) -> bool {
    ["down", "drain", "fail", "maint", "power", "unknown"]
        .iter()
        .any(|away| state.starts_with(away))
        || state.ends_with('*')
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Returns the last line of a failed program's error, or how it ended.
fn last_line(output: &CommandOutput) -> String {
    let stderr = text(&output.stderr);
    match (stderr.lines().last(), &output.end) {
        (Some(line), _) => line.to_owned(),
        (None, CommandEnd::Exit(code)) => format!("it ended with exit code {code}"),
        (None, CommandEnd::Signal(signal)) => format!("it was killed by SIG{signal}"),
    }
}
