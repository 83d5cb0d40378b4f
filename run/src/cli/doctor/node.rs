//! Checks of the folder of runs and of a node, by a short job.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use neva_executors::{
    SlurmExecutor,
    tunnel::{TunnelCommand, TunnelFile},
};

use super::cluster::{Doctor, UNREACHABLE, last_line, text};
use crate::program::RankVersion;

/// Seconds for which the job on a node may wait for one.
const QUEUE_S: u64 = 120;

impl Doctor<'_> {
    /// Writes a file into the folder of runs, for a node to read.
    pub(super) async fn write_shared(&mut self) -> Option<PathBuf> {
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
                self.checks.error(NAME, &error, UNREACHABLE);
                None
            }
        }
    }

    /// Runs a short job on a node: it reads the file and starts the rank program.
    pub(super) async fn node(&mut self, file: PathBuf) -> Option<()> {
        const NAME: &str = "node";
        let executor = self.executor;
        if let Some(program) = &executor.upload
            && let Err(error) = executor.tunnel.upload(program, &executor.program).await
        {
            return self.checks.error("neva-rank", &error, UNREACHABLE);
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
            Err(error) => return self.checks.error(NAME, &error, UNREACHABLE),
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
            return self.checks.problem(NAME, detail, help);
        };
        self.checks.ok(NAME, format!("{host} ran a job"));
        let folder = file
            .parent()
            .and_then(|parent| parent.parent())
            .map(|folder| folder.display().to_string())
            .unwrap_or_default();
        if lines("file ").first().is_some_and(|content| content == "read on a node") {
            self.checks.ok("folder", format!("{folder} is shared with the nodes"));
        } else {
            let help = "name a folder that the nodes share, as `/scratch/me/runs`: with the tunnel's `job_dir`, or where you start runs";
            self.checks.problem(
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
            return self.checks.problem(NAME, detail, help);
        };
        let gpu = if version.cuda {
            ", and a GPU is usable"
        } else {
            ", and no GPU is usable"
        };
        self.checks.ok(
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
        // Writing to a string succeeds.
        let _ = writeln!(script, "module load {}", quoted(module));
    }
    if let Some(libtorch) = &config.libtorch {
        let folder = quoted(&format!("{}/lib", libtorch.trim_end_matches('/')));
        let _ = writeln!(script, "export LD_LIBRARY_PATH={folder}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}");
    }
    if let Some(lines) = &config.setup_lines {
        let _ = writeln!(script, "{}", lines.trim_end());
    }
    // With `sed`, each line is known as the program's; its exit code is kept.
    script += "out=$(\"$2\" version); code=$?\nprintf '%s\\n' \"$out\" | sed 's/^/rank /'\necho \"code $code\"\n";
    script
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
