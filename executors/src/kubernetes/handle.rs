//! Handles of Kubernetes jobs.

use std::path::{Path, PathBuf};

use neva_schemas::is_dns_name;

use crate::job::JobHandle;

const SCHEME: &str = "kubernetes://";

/// A job as its handle names it: `kubernetes://NAMESPACE/NAME/UID<absolute job folder>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KubernetesJob {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Number of the object, which no other one has.
    pub(super) uid: String,
    /// The job's folder, as pods see it.
    pub(super) dir: PathBuf,
}

impl KubernetesJob {
    /// Parses a handle; `None` if it is not that of a Kubernetes job.
    pub(super) fn parse(handle: &JobHandle) -> Option<Self> {
        let mut parts = handle.0.strip_prefix(SCHEME)?.splitn(4, '/');
        let (namespace, name, uid, dir) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_uid = !uid.is_empty() && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        (is_dns_name(namespace) && is_dns_name(name) && is_uid).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            dir: Path::new("/").join(dir),
        })
    }

    /// Returns the handle.
    pub(super) fn handle(&self) -> JobHandle {
        let Self { namespace, name, uid, dir } = self;
        JobHandle(format!("{SCHEME}{namespace}/{name}/{uid}{}", dir.display()))
    }
}

/// Returns the name of the Job in a handle, for messages.
pub fn job_name(handle: &JobHandle) -> Option<String> {
    KubernetesJob::parse(handle).map(|job| job.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_name_namespace_job_and_folder() {
        let job = KubernetesJob {
            namespace: "training".into(),
            name: "neva-tiny-629509fc".into(),
            uid: "0b1d7c2e-0f6b".into(),
            dir: "/runs/a b/c".into(),
        };
        assert_eq!(job.handle().0, "kubernetes://training/neva-tiny-629509fc/0b1d7c2e-0f6b/runs/a b/c");
        assert_eq!(KubernetesJob::parse(&job.handle()), Some(job));
        for bad in [
            "",
            "kubernetes://",
            "kubernetes://a/b/c",
            "kubernetes://A/b/c/d",
            "kubernetes://a/b//d",
            "slurm:///1/d",
        ] {
            assert_eq!(KubernetesJob::parse(&JobHandle(bad.into())), None, "{bad}");
        }
    }
}
