//! Files that pods share.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use neva_tests::run;
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::{Cluster, MOUNT};

/// The folder of a test in the volume that all pods share.
pub(crate) enum Files {
    /// A folder of this machine.
    Here(TempDir),
    /// A folder of a claim, which this machine sees through a pod.
    InPod(FilePod),
}

impl Files {
    /// Returns the folder, as pods see it.
    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Self::Here(dir) => dir.path().to_owned(),
            Self::InPod(pod) => pod.folder(),
        }
    }

    /// Returns the text of a file; empty if there is none.
    pub(crate) fn read(&self, path: &Path) -> String {
        match self {
            Self::Here(_) => fs::read_to_string(path).unwrap_or_default(),
            Self::InPod(pod) => pod.shell("cat \"$1\" 2>/dev/null || true", path),
        }
    }

    /// Returns the names in a folder.
    pub(crate) fn list(&self, path: &Path) -> Vec<String> {
        match self {
            Self::Here(_) => {
                let entries = fs::read_dir(path).into_iter().flatten();
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
            }
            Self::InPod(pod) => {
                let names = pod.shell("ls \"$1\" 2>/dev/null || true", path);
                names.lines().map(str::to_owned).collect()
            }
        }
    }
}

/// A pod that mounts a claim, and has a folder of its own there.
pub(crate) struct FilePod {
    name: String,
    namespace: String,
    kubeconfig: PathBuf,
}

impl FilePod {
    /// Starts the pod.
    #[track_caller]
    pub(crate) fn start(cluster: &Cluster, namespace: &str, claim: &str, name: &str) -> Self {
        let pod = Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            kubeconfig: cluster.kubeconfig().to_owned(),
        };
        let image = cluster.image.as_str();
        let overrides = json!({"spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": name, "image": image, "command": ["/bin/sh", "-c", "while :; do sleep 1; done"],
                "volumeMounts": [{"name": "shared", "mountPath": MOUNT}],
            }],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
        }});
        let overrides = overrides.to_string();
        let start = ["run", name, "--image", image, "--restart=Never", "--overrides", &overrides];
        let _ = run(pod.kubectl(&start)).with_code(0);
        let ready = format!("pod/{name}");
        let _ = run(pod.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", &ready])).with_code(0);
        pod
    }

    fn folder(&self) -> PathBuf {
        Path::new(MOUNT).join(&self.name)
    }

    fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(["-n", &self.namespace])
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs a shell text with a path as `$1`, and returns its output.
    fn shell(&self, text: &str, path: &Path) -> String {
        let path = path.to_str().unwrap();
        let command = self.kubectl(&["exec", &self.name, "--", "sh", "-c", text, "sh", path]);
        run(command).with_code(0).stdout
    }
}

impl Drop for FilePod {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = self.shell("rm -rf \"$1\"", &self.folder());
        }
        let _ = self.kubectl(&["delete", "pod", &self.name, "--wait=false"]).output();
    }
}
