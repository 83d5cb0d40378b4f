//! A Kubernetes cluster of tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use neva_tests::{root, run, wait_for};

use crate::{
    files::{FilePod, Files},
    space::Space,
};

/// The image that `with-servers` makes.
const IMAGE: &str = "neva-run.test/rank:1";
/// Folder of the claim in pods of another cluster.
pub(crate) const MOUNT: &str = "/shared";

/// A cluster.
pub(crate) struct Cluster {
    kubeconfig: PathBuf,
    /// Image of the ranks.
    pub(crate) image: String,
    kind: Kind,
}

enum Kind {
    /// A cluster that kube-up made on this machine.
    Own {
        /// State of the servers.
        state: PathBuf,
        /// True if it is stopped at the end.
        is_stopped: bool,
    },
    /// A cluster that `NEVA_TEST_KUBECONFIG` names.
    Other {
        /// Claim that all pods share.
        claim: String,
        /// Namespace of the kubeconfig.
        namespace: String,
    },
}

fn script(name: &str) -> Command {
    Command::new(root().join("tests/kubernetes").join(name))
}

fn variable(name: &str) -> String {
    neva_tests::variable(name, "e2e-kubernetes")
}

fn kubectl(kubeconfig: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.args(words).env("KUBECONFIG", kubeconfig);
    command
}

impl Cluster {
    /// Returns the cluster that `NEVA_TEST_KUBECONFIG` names, else the one that `with-servers` started.
    pub(crate) fn any() -> Self {
        if std::env::var_os("NEVA_TEST_KUBECONFIG").is_none() {
            return Self::shared();
        }
        let kubeconfig = PathBuf::from(variable("NEVA_TEST_KUBECONFIG"));
        let view = kubectl(&kubeconfig, &["config", "view", "--minify", "-o", "jsonpath={..namespace}"]);
        let namespace = run(view).with_code(0).stdout;
        Self {
            kubeconfig,
            image: variable("NEVA_TEST_KUBE_IMAGE"),
            kind: Kind::Other {
                claim: variable("NEVA_TEST_KUBE_CLAIM"),
                namespace: if namespace.is_empty() { "default".to_owned() } else { namespace },
            },
        }
    }

    /// Returns the cluster that `with-servers` started.
    pub(crate) fn shared() -> Self {
        Self::own(variable("NEVA_TEST_KUBE_STATE").into(), false)
    }

    /// Starts a cluster for a test that stops its servers, with the image of the shared one.
    pub(crate) fn start(name: &str, nodes: u32) -> Self {
        let image = Path::new(&variable("NEVA_TEST_KUBE_STATE")).join("images/rank.tar");
        let state = Path::new(&variable("NEVA_TEST_KUBE_DIR")).join(name);
        let mut up = script("kube-up");
        up.args(["--nodes", &nodes.to_string(), "--image"]).arg(image).arg(&state);
        let up = run(up).with_code(0);
        assert!(up.stdout.contains("KUBECONFIG"), "{}", up.stdout);
        Self::own(state, true)
    }

    fn own(state: PathBuf, is_stopped: bool) -> Self {
        Self {
            kubeconfig: state.join("admin.kubeconfig"),
            image: IMAGE.to_owned(),
            kind: Kind::Own { state, is_stopped },
        }
    }

    /// Returns the state of the servers.
    ///
    /// # Panics
    /// The cluster is not one of our own.
    #[track_caller]
    pub(crate) fn state(&self) -> &Path {
        match &self.kind {
            Kind::Own { state, .. } => state,
            Kind::Other { .. } => panic!("this test needs servers of its own"),
        }
    }

    /// Stops or starts a server or a node.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, action: &str) {
        let mut command = script("kube-node");
        command.arg(self.state()).args([name, action]);
        let _ = run(command).with_code(0);
    }

    /// Returns the kubeconfig; of our own clusters that of the administrator.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns the folder that all pods share, as they see it. Nodes of our own clusters have it at the same path as this machine.
    pub(crate) fn folder(&self) -> PathBuf {
        match &self.kind {
            Kind::Own { state, .. } => state.join("shared"),
            Kind::Other { .. } => MOUNT.into(),
        }
    }

    /// Returns the volume of that folder, for an executor file.
    pub(crate) fn volume(&self) -> String {
        let folder = self.folder();
        let folder = folder.display();
        match &self.kind {
            Kind::Own { .. } => format!("{{mount_path: {folder}, host_path: {folder}}}"),
            Kind::Other { claim, .. } => format!("{{mount_path: {folder}, claim: {claim}}}"),
        }
    }

    /// Returns kubectl with the kubeconfig.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Command {
        kubectl(&self.kubeconfig, words)
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
        command.arg(self.state()).args([namespace, account, &seconds.to_string()]);
        run(command).with_code(0).stdout.trim().to_owned()
    }

    /// Returns a place for a test: a namespace of our own cluster, or a part of that of the kubeconfig.
    #[track_caller]
    pub(crate) fn space(&self, name: &str) -> Space<'_> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let label = format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        match &self.kind {
            Kind::Own { .. } => {
                self.create_namespace(&label);
                Space::new(
                    self,
                    label.clone(),
                    label,
                    true,
                    Files::Here(tempfile::tempdir_in(self.folder()).unwrap()),
                )
            }
            Kind::Other { claim, namespace } => {
                let files = Files::InPod(FilePod::start(self, namespace, claim, &label));
                Space::new(self, namespace.clone(), label, false, files)
            }
        }
    }

    /// Creates a namespace, and waits until pods can be created in it.
    #[track_caller]
    pub(crate) fn create_namespace(&self, name: &str) {
        let _ = run(self.kubectl(&["create", "namespace", name])).with_code(0);
        wait_for("the service account of a new namespace", || {
            let account = run(self.kubectl(&["get", "serviceaccount", "default", "-n", name]));
            (account.code == Some(0)).then_some(())
        });
    }

    /// Returns the namespace `default` of our own cluster, which has the claim `shared`. For one test at a time.
    pub(crate) fn default_space(&self) -> Space<'_> {
        let files = Files::Here(tempfile::tempdir_in(self.folder()).unwrap());
        Space::new(self, "default".to_owned(), "default".to_owned(), false, files)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Kind::Own { state, is_stopped: true } = &self.kind {
            let _ = script("kube-down").arg("--purge").arg(state).status();
        }
    }
}
