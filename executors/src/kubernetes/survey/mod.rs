//! Facts about a cluster that `neva-run doctor` reports: permissions, nodes, claims, storage classes, quotas.

mod node;
mod permission;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, ResourceQuota},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Api, api::ListParams};
use neva_schemas::VolumeSource;

pub use self::{node::NodeFacts, permission::Permission};
use self::{node::nodes, permission::denied};
use super::{KubernetesExecutor, cluster::Cluster};
use crate::{error::ExecutorError, kubernetes_error::KubernetesError};

/// A claim of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimFacts {
    /// `Bound`, `Pending` or `Lost`.
    pub phase: String,
    /// `ReadWriteMany`, ...
    pub access_modes: Vec<String>,
    /// Class of its storage.
    pub storage_class: Option<String>,
}

/// A limit of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaFacts {
    /// Name of the `ResourceQuota`.
    pub name: String,
    /// Used and maximum amount of each resource, as the API server prints them.
    pub amounts: BTreeMap<String, (String, String)>,
}

/// Facts about a cluster. Those that the account may not read are `None`; a job does not need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Version of the API server.
    pub version: String,
    /// Its address, for messages.
    pub place: String,
    /// Namespace of jobs.
    pub namespace: String,
    /// Permissions that the account lacks.
    pub denied: Vec<Permission>,
    /// Nodes of the cluster.
    pub nodes: Option<Vec<NodeFacts>>,
    /// Claims by name; `None` for one that does not exist.
    pub claims: BTreeMap<String, Option<ClaimFacts>>,
    /// Names of the storage classes.
    pub storage_classes: Option<BTreeSet<String>>,
    /// Quotas of the namespace.
    pub quotas: Option<Vec<QuotaFacts>>,
}

impl KubernetesExecutor {
    /// Collects the facts about the cluster.
    ///
    /// # Errors
    /// The API server cannot be reached or does not accept the account.
    pub async fn survey(&self) -> Result<Survey, ExecutorError> {
        let cluster = &self.connect().await?;
        let version = cluster.ask(cluster.client.apiserver_version()).await?.git_version;
        let denied = denied(cluster, !self.config.env_from.is_empty()).await?;
        let mut claims = BTreeMap::new();
        for source in self.config.volumes.iter().flat_map(|volume| volume.sources()) {
            if let VolumeSource::Claim(name) = source
                && let Some(claim) = allowed(claim(cluster, name).await)?
            {
                claims.insert(name.to_owned(), claim);
            }
        }
        Ok(Survey {
            version,
            place: cluster.place.clone(),
            namespace: cluster.namespace.clone(),
            denied,
            nodes: allowed(nodes(cluster).await)?,
            claims,
            storage_classes: allowed(storage_classes(cluster).await)?,
            quotas: allowed(quotas(cluster).await)?,
        })
    }
}

/// Turns an answer that the account may not have into `None`.
fn allowed<T>(result: Result<T, ExecutorError>) -> Result<Option<T>, ExecutorError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ExecutorError::Kubernetes(KubernetesError::Forbidden { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns a claim of the namespace; `None` if there is none of that name.
async fn claim(cluster: &Cluster, name: &str) -> Result<Option<ClaimFacts>, ExecutorError> {
    let claims: Api<PersistentVolumeClaim> = cluster.api();
    Ok(cluster.ask(claims.get_opt(name)).await?.map(|claim| {
        let status = claim.status.unwrap_or_default();
        let spec = claim.spec.unwrap_or_default();
        ClaimFacts {
            phase: status.phase.unwrap_or_default(),
            access_modes: status.access_modes.or(spec.access_modes).unwrap_or_default(),
            storage_class: spec.storage_class_name,
        }
    }))
}

/// Returns the names of the storage classes.
async fn storage_classes(cluster: &Cluster) -> Result<BTreeSet<String>, ExecutorError> {
    let classes: Api<StorageClass> = Api::all(cluster.client.clone());
    let classes = cluster.ask(classes.list(&ListParams::default())).await?;
    Ok(classes.items.into_iter().filter_map(|class| class.metadata.name).collect())
}

/// Returns the quotas of the namespace.
async fn quotas(cluster: &Cluster) -> Result<Vec<QuotaFacts>, ExecutorError> {
    let quotas: Api<ResourceQuota> = cluster.api();
    let quotas = cluster.ask(quotas.list(&ListParams::default())).await?;
    Ok(quotas
        .items
        .into_iter()
        .map(|quota| {
            let status = quota.status.unwrap_or_default();
            let used = status.used.unwrap_or_default();
            let zero = Quantity("0".to_owned());
            let amounts = status.hard.unwrap_or_default().into_iter().map(|(name, hard)| {
                let used = used.get(&name).unwrap_or(&zero).0.clone();
                (name, (used, hard.0))
            });
            QuotaFacts {
                name: quota.metadata.name.unwrap_or_default(),
                amounts: amounts.collect(),
            }
        })
        .collect())
}
