//! A Slurm cluster on this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neva_executors::{
    BoxFuture, ExecutorError,
    tunnel::{CommandOutput, LocalTunnel, Tunnel, TunnelCommand, TunnelFile},
};
pub(crate) use neva_tests::small::{small as tiny, words};
use neva_tests::{Ended, launcher, program, root, run, wait_for};
use tempfile::TempDir;

/// A cluster, and a folder that its nodes share.
pub(crate) struct Cluster {
    /// Settings of Slurm's programs.
    conf: PathBuf,
    /// State of the servers.
    state: PathBuf,
    /// True if it is stopped at the end.
    is_own: bool,
    /// Folder of runs, executor files and the store.
    pub(crate) dir: TempDir,
}

fn script(name: &str) -> Command {
    Command::new(root().join("tests/slurm").join(name))
}

fn variable(name: &str) -> PathBuf {
    neva_tests::variable(name, "e2e-slurm").into()
}

impl Cluster {
    /// Returns the cluster that all tests share.
    pub(crate) fn shared() -> Self {
        Self {
            conf: variable("SLURM_CONF"),
            state: variable("SLURM_FIXTURE"),
            is_own: false,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Starts a cluster of two nodes with these options of `slurm-up`.
    pub(crate) fn start(name: &str, options: &[&str]) -> Self {
        let state = variable("NEVA_TEST_SLURM_DIR").join(name);
        let up = run({
            let mut up = script("slurm-up");
            up.args(options).arg(&state);
            up
        })
        .with_code(0);
        assert!(up.stdout.contains("SLURM_CONF"), "{}", up.stdout);
        Self {
            conf: state.join("client/slurm.conf"),
            state,
            is_own: true,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns one of Slurm's programs.
    pub(crate) fn slurm(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("SLURM_CONF", &self.conf).env("LC_ALL", "C");
        command
    }

    /// Runs one of Slurm's programs and returns its output.
    #[track_caller]
    pub(crate) fn output(&self, words: &[&str]) -> String {
        run(self.slurm(words)).with_code(0).stdout.trim().to_owned()
    }

    /// Crashes, starts, ... a node or `controller`.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, action: &str) -> String {
        let mut command = script("slurm-node");
        command.arg(&self.state).args([name, action]);
        run(command).with_code(0).stdout
    }

    /// Returns `neva-run` with the cluster's settings and a store of its own.
    pub(crate) fn neva_run(&self, arguments: &[&str]) -> Command {
        let mut command = launcher(&program("neva-run"), arguments);
        command
            .env("SLURM_CONF", &self.conf)
            .env("NEVA_RUN_HOME", self.dir.path().join("home"))
            .env("OMP_WAIT_POLICY", "passive");
        command
    }

    /// Runs `neva-run` to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        run(self.neva_run(arguments))
    }

    /// Writes an executor file for this machine, with these lines in addition.
    pub(crate) fn executor(&self, name: &str, lines: &str) -> String {
        let text = format!(
            "_target_: run.SlurmExecutor\ngpus_per_node: 0\nstatus_interval_s: 1\nprogress_interval_s: 2\nrank_program: {}\n{lines}\n",
            program("neva-rank").display()
        );
        self.write(name, &text)
    }

    /// Writes an executor file for the sshd. The rank program is uploaded.
    pub(crate) fn ssh_executor(&self, name: &str, lines: &str) -> String {
        let sshd = variable("SSHD_FIXTURE");
        let port = variable("SSHD_FIXTURE_PORT");
        let text = format!(
            "_target_: run.SlurmExecutor\ngpus_per_node: 0\nstatus_interval_s: 1\ntunnel:\n  _target_: run.SSHTunnel\n  \
             host: 127.0.0.1\n  port: {}\n  user: root\n  identity: {1}/id_ed25519\n  known_hosts: {1}/known_hosts\n  \
             config_file: /dev/null\n  job_dir: {2}\n{lines}\n",
            port.display(),
            sshd.display(),
            self.dir.path().join("far").display()
        );
        self.write(name, &text)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(format!("{name}.yaml"));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Removes what the stopped controller knows of jobs.
    pub(crate) fn forget_jobs(&self) {
        for file in ["job_state", "job_state.old", "last_state_save_time"] {
            let _ = fs::remove_file(self.state.join("state").join(file));
        }
    }

    /// Returns the job of the run in `dir`.
    #[track_caller]
    pub(crate) fn job_of(&self, dir: &Path) -> String {
        wait_for("the number of a job", || {
            let text = fs::read_to_string(dir.join("slurm.job")).ok()?;
            Some(text.split_whitespace().next()?.to_owned())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_own {
            let mut down = script("slurm-down");
            down.arg("--purge").arg(&self.state);
            let _ = down.status();
        }
    }
}

/// A tunnel to this machine whose commands use the cluster's settings.
#[derive(Debug)]
pub(crate) struct ClusterTunnel {
    conf: String,
}

impl Cluster {
    /// Returns a tunnel for an executor in this process.
    pub(crate) fn tunnel(&self) -> ClusterTunnel {
        ClusterTunnel {
            conf: self.conf.display().to_string(),
        }
    }

    /// Hides a folder from the jobs of a node: there it is empty and cannot be written.
    #[track_caller]
    pub(crate) fn hide(&self, node: &str, folder: &Path) {
        let pids = self.node(node, "pids");
        let inside = pids.split_whitespace().last().expect("a process of the node");
        let mut command = Command::new("nsenter");
        command
            .args(["-t", inside, "-m", "mount", "-t", "tmpfs", "-o", "ro", "none"])
            .arg(folder);
        let _ = run(command).with_code(0);
    }
}

impl Tunnel for ClusterTunnel {
    fn place(&self) -> String {
        LocalTunnel.place()
    }

    fn run<'a>(&'a self, command: &'a TunnelCommand) -> BoxFuture<'a, Result<CommandOutput, ExecutorError>> {
        Box::pin(async move {
            let mut command = command.clone();
            command.env.insert("SLURM_CONF".into(), self.conf.clone());
            LocalTunnel.run(&command).await
        })
    }

    fn write<'a>(&'a self, files: &'a [TunnelFile]) -> BoxFuture<'a, Result<(), ExecutorError>> {
        LocalTunnel.write(files)
    }

    fn upload<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Result<(), ExecutorError>> {
        LocalTunnel.upload(from, to)
    }

    fn read<'a>(&'a self, file: &'a Path, offset: u64, limit: u64) -> BoxFuture<'a, Result<Option<Vec<u8>>, ExecutorError>> {
        LocalTunnel.read(file, offset, limit)
    }
}
