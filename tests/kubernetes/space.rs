//! The place of a test in a cluster: its namespace, its objects and its files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neva_tests::{Ended, launcher, program, run, small};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cluster::Cluster, files::Files};

/// Label of the objects of a test.
const LABEL: &str = "neva-run.test/test";

/// A namespace, or a part of it.
pub(crate) struct Space<'a> {
    pub(crate) cluster: &'a Cluster,
    /// Name of the namespace.
    pub(crate) name: String,
    /// Value of [`LABEL`].
    label: String,
    /// True if the namespace is deleted at the end.
    is_own: bool,
    /// Folder of runs.
    pub(crate) files: Files,
    /// Folder of executor files and of the store, on this machine.
    pub(crate) dir: TempDir,
}

/// A pod of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) index: String,
    pub(crate) node: String,
    pub(crate) phase: String,
}

impl<'a> Space<'a> {
    pub(crate) fn new(cluster: &'a Cluster, name: String, label: String, is_own: bool, files: Files) -> Self {
        let dir = match &files {
            // Pods of launchers see it, too.
            Files::Here(dir) => tempfile::tempdir_in(dir).unwrap(),
            Files::InPod(_) => tempfile::tempdir().unwrap(),
        };
        Self {
            cluster,
            name,
            label,
            is_own,
            files,
            dir,
        }
    }

    /// Runs kubectl in the namespace, and returns its output.
    #[track_caller]
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let mut command = self.cluster.kubectl(words);
        command.args(["-n", &self.name]);
        run(command).with_code(0).stdout.trim().to_owned()
    }

    /// Returns the objects of a kind that belong to jobs of the test.
    #[track_caller]
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        let list = self.kubectl(&["get", kind, "-l", &format!("{LABEL}={}", self.label), "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// Returns the events of jobs of the test and of their pods.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let jobs = self.objects("jobs");
        let jobs: Vec<_> = jobs.iter().map(|job| job["metadata"]["name"].as_str().unwrap()).collect();
        let list: Value = serde_json::from_str(&self.kubectl(&["get", "events", "-o", "json"])).unwrap();
        let events = list["items"].as_array().unwrap().iter();
        let of_job = |event: &&Value| {
            let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
            jobs.iter().any(|job| name.starts_with(job))
        };
        events.filter(of_job).cloned().collect()
    }

    /// Returns the pods that are not being deleted.
    #[track_caller]
    pub(crate) fn pods(&self) -> Vec<Pod> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pods = self.objects("pods").into_iter();
        pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| Pod {
                name: text(&pod["metadata"]["name"]),
                index: text(&pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]),
                node: text(&pod["spec"]["nodeName"]),
                phase: text(&pod["status"]["phase"]),
            })
            .collect()
    }

    /// Deletes the jobs of the test, which deletes what belongs to them.
    pub(crate) fn delete_jobs(&self) {
        let _ = self.kubectl(&["delete", "jobs", "-l", &format!("{LABEL}={}", self.label)]);
    }

    /// Returns `neva-run` with the cluster's kubeconfig and a store of its own.
    pub(crate) fn neva_run(&self, arguments: &[&str]) -> Command {
        let mut command = launcher(&program("neva-run"), arguments);
        command
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("NEVA_RUN_HOME", self.dir.path().join("home"))
            .env("OMP_WAIT_POLICY", "passive");
        command
    }

    /// Runs `neva-run` to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        run(self.neva_run(arguments))
    }

    /// Writes an executor file whose pods mount the shared folder, with these lines in addition.
    pub(crate) fn executor(&self, name: &str, lines: &str) -> String {
        let volume = self.cluster.volume();
        let text = format!(
            "_target_: run.KubernetesExecutor\nnamespace: {}\nimage: {}\ngpus_per_node: 0\nlabels: {{{LABEL}: {}}}\n\
             volumes: [{volume}]\n{lines}\n",
            self.name, self.cluster.image, self.label
        );
        self.write(&format!("{name}.yaml"), &text)
    }

    /// Writes a file on this machine and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Returns the folder of runs, as pods see it.
    pub(crate) fn runs(&self) -> PathBuf {
        self.files.folder().join("runs")
    }

    /// Returns the newest run of `name`, once it exists.
    pub(crate) fn newest(&self, name: &str) -> Option<PathBuf> {
        let runs = self.runs().join(name);
        Some(runs.join(self.files.list(&runs).into_iter().max()?))
    }

    /// Returns the number of steps that a run has recorded.
    pub(crate) fn steps(&self, run: &Path) -> usize {
        self.files.read(&run.join("metrics.jsonl")).lines().count()
    }

    /// Returns the bits of each step's loss.
    #[track_caller]
    pub(crate) fn losses(&self, run: &Path) -> BTreeMap<u64, u64> {
        let copy = tempfile::tempdir_in(&self.dir).unwrap();
        fs::write(copy.path().join("metrics.jsonl"), self.files.read(&run.join("metrics.jsonl"))).unwrap();
        small::losses(copy.path())
    }

    /// Returns a kubeconfig of a service account in the namespace, which may do what `rules` say and nothing else.
    #[track_caller]
    pub(crate) fn account(&self, name: &str, rules: &str) -> PathBuf {
        self.cluster.apply(&format!(
            "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {0}}}}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {name}, namespace: {0}}}\nrules: {rules}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}, namespace: {0}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}\n\
             subjects: [{{kind: ServiceAccount, name: {name}, namespace: {0}}}]\n",
            self.name
        ));
        let token = self.kubectl(&["create", "token", name]);
        self.with_token(name, &token)
    }

    /// Returns a kubeconfig with a token in place of the administrator's certificate.
    pub(crate) fn with_token(&self, name: &str, token: &str) -> PathBuf {
        let text = fs::read_to_string(self.cluster.kubeconfig()).unwrap();
        let lines = text.lines().map(|line| {
            if line.starts_with("users:") {
                format!("users: [{{name: user, user: {{token: \"{token}\"}}}}]")
            } else {
                line.to_owned()
            }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        Path::new(&self.write(&format!("{name}.kubeconfig"), &text)).to_owned()
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let label = format!("{LABEL}={}", self.label);
        let what = match self.is_own {
            true => vec!["namespace", &self.name],
            false => vec!["jobs", "-n", &self.name, "-l", &label],
        };
        let mut delete = self.cluster.kubectl(&[&["delete", "--wait=false"][..], &what].concat());
        let _ = delete.output();
    }
}
