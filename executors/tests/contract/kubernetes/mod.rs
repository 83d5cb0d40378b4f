//! Fixture of the Kubernetes executor: jobs in a folder that the nodes share, behind a connection that gets lost.

mod lossy;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::FutureExt as _;
use kube::{Client, Config};
use neva_executors::{Executor, KubernetesExecutor};
use neva_schemas::{KubernetesExecutorConfig, KubernetesVolume};

use self::lossy::Losses;
use crate::{
    cluster_files::output,
    fixture::{Fixture, Loss, Programs},
};

/// A cluster.
pub(crate) struct KubernetesFixture {
    /// Folder of one test, as pods see it.
    dir: PathBuf,
    place: Place,
    losses: Losses,
    programs: Programs,
}

/// Where the files of the jobs are.
enum Place {
    /// A folder of this machine, which both nodes of our own cluster have at the same path.
    Here,
    /// A claim of another cluster; the tests look at its files from a pod of this name.
    Claim { claim: String, image: String, pod: String },
}

/// Folder of the claim in pods.
const MOUNT: &str = "/shared";

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(OsString::into_string)?.ok()
}

#[track_caller]
fn required(name: &str) -> String {
    variable(name).unwrap_or_else(|| panic!("{name} is not set: start this with `make e2e-kubernetes`"))
}

impl KubernetesFixture {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("contract-{}-{number}", std::process::id());
        let (place, parent) = match variable("NEVA_TEST_KUBECONFIG") {
            Some(_) => {
                let place = Place::Claim {
                    claim: required("NEVA_TEST_KUBE_CLAIM"),
                    image: required("NEVA_TEST_KUBE_IMAGE"),
                    pod: name.clone(),
                };
                (place, PathBuf::from(MOUNT))
            }
            None => (Place::Here, Path::new(&required("NEVA_TEST_KUBE_STATE")).join("shared")),
        };
        let fixture = Self {
            dir: parent.join(name),
            place,
            losses: Losses::default(),
            programs: Programs::default(),
        };
        fixture.start_pod();
        fixture.shell("mkdir -p \"$1/jobs\"", &fixture.dir, "");
        fixture
    }

    fn volume(&self) -> KubernetesVolume {
        match &self.place {
            Place::Here => {
                let shared = self.dir.parent().unwrap().to_str().unwrap();
                KubernetesVolume {
                    mount_path: shared.to_owned(),
                    host_path: Some(shared.to_owned()),
                    ..KubernetesVolume::default()
                }
            }
            Place::Claim { claim, .. } => KubernetesVolume {
                mount_path: MOUNT.to_owned(),
                claim: Some(claim.clone()),
                ..KubernetesVolume::default()
            },
        }
    }

    /// Starts the pod that sees the files of another cluster.
    fn start_pod(&self) {
        let Place::Claim { claim, image, pod } = &self.place else { return };
        let overrides = serde_json::json!({"spec": {
            "containers": [{
                "name": pod, "image": image, "command": ["/bin/sh", "-c", "while :; do sleep 1; done"],
                "volumeMounts": [{"name": "shared", "mountPath": MOUNT}],
            }],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
        }});
        kubectl(
            &[
                "run",
                pod,
                "--image",
                image,
                "--restart=Never",
                "--overrides",
                &overrides.to_string(),
            ],
            "",
        );
        kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", &format!("pod/{pod}")], "");
    }

    /// Runs a shell text where the jobs' files are, with a path as `$1`, and returns its output.
    fn shell(&self, text: &str, path: &Path, input: &str) -> String {
        match &self.place {
            Place::Here => output(Command::new("sh").args(["-c", text, "sh"]).arg(path), input),
            Place::Claim { pod, .. } => {
                let path = path.to_str().unwrap();
                kubectl(&["exec", "-i", pod, "--", "sh", "-c", text, "sh", path], input)
            }
        }
    }
}

fn kubectl(args: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    if let Some(file) = variable("NEVA_TEST_KUBECONFIG") {
        command.env("KUBECONFIG", file);
    }
    output(command.args(args), input)
}

impl Drop for KubernetesFixture {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.shell("rm -rf \"$1\"", &self.dir, "");
        }
        if let Place::Claim { pod, .. } = &self.place {
            kubectl(&["delete", "pod", pod, "--wait=false"], "");
        }
    }
}

impl Fixture for KubernetesFixture {
    fn executor(&self, ranks: &str) -> Arc<dyn Executor> {
        let program = self.programs.program(&self.dir, ranks, |program, text| {
            self.shell("cat >\"$1\" && chmod +x \"$1\"", program, text);
        });
        let file = variable("NEVA_TEST_KUBECONFIG").or_else(|| variable("KUBECONFIG"));
        let config = KubernetesExecutorConfig {
            image: Some(variable("NEVA_TEST_KUBE_IMAGE").unwrap_or_else(|| "neva-run.test/rank:1".to_owned())),
            image_pull_policy: matches!(self.place, Place::Here).then(|| "Never".to_owned()),
            kubeconfig: file.clone(),
            rank_program: program.to_str().unwrap().to_owned(),
            volumes: vec![self.volume()],
            termination_grace_period_seconds: 5,
            // Nothing is left behind in a cluster of one's own.
            ttl_seconds_after_finished: Some(600),
            ..KubernetesExecutorConfig::default()
        };
        let settings = kube::config::Kubeconfig::read_from(file.unwrap()).unwrap();
        // Reading a kubeconfig waits for nothing.
        let settings = Config::from_custom_kubeconfig(settings, &Default::default())
            .now_or_never()
            .unwrap()
            .unwrap();
        let client = self.losses.client(Client::try_from(settings).unwrap());
        Arc::new(KubernetesExecutor::new(config).client(client))
    }

    fn jobs(&self) -> PathBuf {
        self.dir.join("jobs")
    }

    fn read(&self, path: &Path) -> String {
        self.shell("cat \"$1\" 2>/dev/null || true", path, "")
    }

    fn write(&self, path: &Path, text: &str) {
        self.shell("cat >\"$1\"", path, text);
    }

    fn lose(&self, losses: &[Loss]) -> bool {
        self.losses.lose(losses);
        true
    }

    fn outlives_launcher(&self) -> bool {
        true
    }
}
