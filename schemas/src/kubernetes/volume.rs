//! Volumes of pods.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A volume and its place in the pods. Exactly one of its sources is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubernetesVolume {
    /// Path in the pods, absolute.
    pub mount_path: String,
    /// PersistentVolumeClaim of the namespace.
    pub claim: Option<String>,
    /// NFS server and path.
    pub nfs: Option<NfsVolume>,
    /// Path on the nodes. Pods on several nodes share it only if the nodes do.
    pub host_path: Option<String>,
    /// A folder that lives as long as its pod, at most this large: `100Gi`; `""` for no limit.
    pub empty_dir: Option<String>,
    /// ConfigMap of the namespace.
    pub config_map: Option<String>,
    /// Secret of the namespace.
    pub secret: Option<String>,
    /// Folder of the volume that is mounted.
    pub sub_path: Option<String>,
    /// Pods may not write.
    pub read_only: bool,
}

/// A folder of an NFS server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NfsVolume {
    /// Host name or address.
    pub server: String,
    /// Exported path.
    pub path: String,
}

/// Source of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeSource<'a> {
    /// A PersistentVolumeClaim.
    Claim(&'a str),
    /// A folder of an NFS server.
    Nfs(&'a NfsVolume),
    /// A path on the nodes.
    HostPath(&'a str),
    /// A folder that lives as long as its pod, with its size limit; empty for none.
    EmptyDir(&'a str),
    /// A ConfigMap.
    ConfigMap(&'a str),
    /// A Secret.
    Secret(&'a str),
}

impl KubernetesVolume {
    /// Returns the sources that are set; exactly one in a valid volume.
    pub fn sources(&self) -> Vec<VolumeSource<'_>> {
        let sources = [
            self.claim.as_deref().map(VolumeSource::Claim),
            self.nfs.as_ref().map(VolumeSource::Nfs),
            self.host_path.as_deref().map(VolumeSource::HostPath),
            self.empty_dir.as_deref().map(VolumeSource::EmptyDir),
            self.config_map.as_deref().map(VolumeSource::ConfigMap),
            self.secret.as_deref().map(VolumeSource::Secret),
        ];
        sources.into_iter().flatten().collect()
    }

    /// Returns true if files that a pod writes are there for the other pods and for later ones.
    pub fn is_shared(&self) -> bool {
        self.claim.is_some() || self.nfs.is_some() || self.host_path.is_some()
    }

    /// Returns true if `path` is in the volume.
    pub(super) fn holds(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.mount_path.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
