//! Claims the folder of a run for one launcher, by an object whose name is made from it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    KubernetesExecutor,
    names::{DIR, MANAGED_BY, MANAGER},
    refusal,
};
use crate::error::ExecutorError;

/// Maximum number of runs of one name that start in the same second.
const MAX_SUFFIX: u32 = 1000;

/// Returns the ConfigMap that claims a folder for a run.
pub(super) fn claim(namespace: &str, dir: &Path) -> Value {
    let hash = Sha256::digest(format!("{namespace}\n{}", dir.display()).as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": format!("neva-folder-{hash}"),
            "labels": { MANAGED_BY: MANAGER },
            "annotations": { DIR: dir.display().to_string() },
        },
    })
}

/// Claims the folder of a new run: only one launcher can create the object of its name. The ranks create the folder itself.
pub(super) async fn create_folder(executor: &KubernetesExecutor, first: &Path) -> Result<PathBuf, ExecutorError> {
    for suffix in 0..MAX_SUFFIX {
        let mut folder = first.as_os_str().to_owned();
        if suffix > 0 {
            folder.push(format!("-{suffix}"));
        }
        let folder = PathBuf::from(folder);
        // A repeated request may find the object of the lost one; then the next name is taken.
        let created = executor.repeat(|| Box::pin(claim_folder(executor, &folder))).await?;
        if created {
            return Ok(folder);
        }
    }
    Err(ExecutorError::File {
        action: "create",
        path: first.to_owned(),
        source: std::io::ErrorKind::AlreadyExists.into(),
    })
}

/// Creates the object that claims a folder. Returns false if there is one.
async fn claim_folder(executor: &KubernetesExecutor, folder: &Path) -> Result<bool, ExecutorError> {
    let cluster = executor.connect().await?;
    let claim: ConfigMap = serde_json::from_value(claim(&cluster.namespace, folder))?;
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    match cluster.ask(cluster.api::<ConfigMap>().create(&params, &claim)).await {
        Ok(_) => Ok(true),
        Err(error) if refusal::has_words(&error, &["already exists"]) => Ok(false),
        Err(error) => Err(error),
    }
}
