//! A Kubernetes cluster on this machine, and a namespace of a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use neva_tests::{Ended, launcher, program, root, run, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// The image that `with-servers` makes.
pub(crate) const IMAGE: &str = "neva-run.test/rank:1";

/// A cluster that kube-up made.
pub(crate) struct Cluster {
    /// State of the servers.
    state: PathBuf,
    /// True if it is stopped at the end.
    is_own: bool,
}

fn script(name: &str) -> Command {
    Command::new(root().join("tests/kubernetes").join(name))
}

fn variable(name: &str) -> PathBuf {
    neva_tests::variable(name, "e2e-kubernetes").into()
}

impl Cluster {
    /// Returns the cluster that all tests share.
    pub(crate) fn shared() -> Self {
        Self {
            state: variable("NEVA_TEST_KUBE_STATE"),
            is_own: false,
        }
    }

    /// Starts a cluster, with the image of the shared one.
    pub(crate) fn start(name: &str, nodes: u32) -> Self {
        let image = variable("NEVA_TEST_KUBE_STATE").join("images/rank.tar");
        let state = variable("NEVA_TEST_KUBE_DIR").join(name);
        let mut up = script("kube-up");
        up.args(["--nodes", &nodes.to_string(), "--image"]).arg(image).arg(&state);
        let up = run(up).with_code(0);
        assert!(up.stdout.contains("KUBECONFIG"), "{}", up.stdout);
        Self { state, is_own: true }
    }

    /// Stops or starts a server or a node.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, action: &str) {
        let mut command = script("kube-node");
        command.arg(&self.state).args([name, action]);
        let _ = run(command).with_code(0);
    }

    /// Returns the administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// Returns the folder that all nodes share.
    pub(crate) fn folder(&self) -> PathBuf {
        self.state.join("shared")
    }

    /// Returns kubectl as the administrator.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(words).env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Applies a manifest as the administrator.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), manifest).unwrap();
        let mut command = self.kubectl(&["apply", "-f"]);
        command.arg(file.path());
        let _ = run(command).with_code(0);
    }

    /// Returns a token of a service account that expires in `seconds`.
    #[track_caller]
    pub(crate) fn token(&self, namespace: &str, account: &str, seconds: u32) -> String {
        let mut command = script("short-token");
        command.arg(&self.state).args([namespace, account, &seconds.to_string()]);
        run(command).with_code(0).stdout.trim().to_owned()
    }

    /// Creates a namespace for a test.
    pub(crate) fn space(&self, name: &str) -> Space<'_> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let _ = run(self.kubectl(&["create", "namespace", &name])).with_code(0);
        wait_for("the service account of a new namespace", || {
            let account = run(self.kubectl(&["get", "serviceaccount", "default", "-n", &name]));
            (account.code == Some(0)).then_some(())
        });
        Space {
            cluster: self,
            name,
            is_own: true,
            dir: tempfile::tempdir_in(self.folder()).unwrap(),
        }
    }

    /// Returns the namespace `default`, which has the claim `shared`. For one test at a time.
    pub(crate) fn default_space(&self) -> Space<'_> {
        Space {
            cluster: self,
            name: "default".to_owned(),
            is_own: false,
            dir: tempfile::tempdir_in(self.folder()).unwrap(),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_own {
            let _ = script("kube-down").arg("--purge").arg(&self.state).status();
        }
    }
}

/// A namespace, and a folder that all nodes share at the same path.
pub(crate) struct Space<'a> {
    pub(crate) cluster: &'a Cluster,
    /// Name of the namespace.
    pub(crate) name: String,
    /// True if it is deleted at the end.
    is_own: bool,
    /// Folder of runs, executor files and the store.
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

impl Space<'_> {
    /// Runs kubectl as the administrator in the namespace, and returns its output.
    #[track_caller]
    pub(crate) fn kubectl(&self, words: &[&str]) -> String {
        let mut command = self.cluster.kubectl(words);
        command.args(["-n", &self.name]);
        run(command).with_code(0).stdout.trim().to_owned()
    }

    /// Returns the objects of a kind.
    #[track_caller]
    pub(crate) fn objects(&self, kind: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-o", "json"])).unwrap();
        list["items"].as_array().unwrap().clone()
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

    /// Writes an executor file whose pods mount the shared folder at its own path, with these lines in addition.
    pub(crate) fn executor(&self, name: &str, lines: &str) -> String {
        let folder = self.cluster.folder();
        let folder = folder.display();
        self.bare_executor(name, &format!("volumes: [{{mount_path: {folder}, host_path: {folder}}}]\n{lines}"))
    }

    /// Writes an executor file without a volume.
    pub(crate) fn bare_executor(&self, name: &str, lines: &str) -> String {
        let text = format!(
            "_target_: run.KubernetesExecutor\nnamespace: {}\nimage: {IMAGE}\ngpus_per_node: 0\n{lines}\n",
            self.name
        );
        self.write(&format!("{name}.yaml"), &text)
    }

    /// Writes a file into the namespace's folder and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Returns the folder of runs.
    pub(crate) fn runs(&self) -> PathBuf {
        self.dir.path().join("runs")
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
        if self.is_own {
            let mut delete = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
            let _ = delete.output();
        }
    }
}
