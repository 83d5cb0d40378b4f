//! Volumes of the pods.

use neva_schemas::{KubernetesExecutorConfig, KubernetesVolume, VolumeSource};
use serde_json::{Value, json};

use super::{
    super::names::{Names, STOP},
    RUNS,
};

/// Label that the controller gives the pods of a Job: the uid of the Job.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// A volume and its mounts in the container.
pub(super) struct Volumes {
    pub(super) volumes: Vec<Value>,
    pub(super) mounts: Vec<Value>,
}

impl Volumes {
    /// Returns the volumes of a pod: the executor's own, then those of the config.
    pub(super) fn new(config: &KubernetesExecutorConfig, names: &Names) -> Self {
        let field = |path: &str, key: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.{key}") } });
        let items = [
            field("stop", &format!("annotations['{STOP}']")),
            field("job", &format!("labels['{CONTROLLER_UID}']")),
        ];
        let mut volumes = Self {
            volumes: Vec::new(),
            mounts: Vec::new(),
        };
        volumes.add(
            "neva-job",
            json!({ "configMap": { "name": names.job } }),
            json!({ "mountPath": "/neva/job", "readOnly": true }),
        );
        volumes.add(
            "neva-pod",
            json!({ "downwardAPI": { "items": items } }),
            json!({ "mountPath": "/neva/pod", "readOnly": true }),
        );
        volumes.add("neva-work", json!({ "emptyDir": {} }), json!({ "mountPath": "/neva/work" }));
        if config.runs_dir().is_none() {
            volumes.add("neva-runs", json!({ "emptyDir": {} }), json!({ "mountPath": RUNS }));
        }
        if let Some(size) = &config.shm_size {
            let memory = json!({ "emptyDir": { "medium": "Memory", "sizeLimit": size } });
            volumes.add("neva-shm", memory, json!({ "mountPath": "/dev/shm" }));
        }
        for (index, volume) in config.volumes.iter().enumerate() {
            volumes.add(&format!("volume-{index}"), source(volume), mount(volume));
        }
        volumes
    }

    fn add(&mut self, name: &str, source: Value, mount: Value) {
        let named = |rest: Value| {
            let mut named = json!({ "name": name });
            for (key, value) in rest.as_object().into_iter().flatten() {
                named[key] = value.clone();
            }
            named
        };
        self.volumes.push(named(source));
        self.mounts.push(named(mount));
    }
}

fn source(volume: &KubernetesVolume) -> Value {
    match volume.sources().first() {
        Some(VolumeSource::Claim(claim)) => json!({ "persistentVolumeClaim": { "claimName": claim } }),
        Some(VolumeSource::Nfs(nfs)) => json!({ "nfs": { "server": nfs.server, "path": nfs.path } }),
        Some(VolumeSource::HostPath(path)) => json!({ "hostPath": { "path": path } }),
        Some(VolumeSource::ConfigMap(name)) => json!({ "configMap": { "name": name } }),
        Some(VolumeSource::Secret(name)) => json!({ "secret": { "secretName": name } }),
        Some(VolumeSource::EmptyDir("")) | None => json!({ "emptyDir": {} }),
        Some(VolumeSource::EmptyDir(size)) => json!({ "emptyDir": { "sizeLimit": size } }),
    }
}

fn mount(volume: &KubernetesVolume) -> Value {
    let mut mount = json!({ "mountPath": volume.mount_path });
    if let Some(path) = &volume.sub_path {
        mount["subPath"] = json!(path);
    }
    if volume.read_only {
        mount["readOnly"] = json!(true);
    }
    mount
}
