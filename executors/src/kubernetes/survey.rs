//! Facts about a cluster that `neva-run doctor` reports: permissions, nodes, claims, storage classes, quotas.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{Node, PersistentVolumeClaim, ResourceQuota},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use neva_schemas::VolumeSource;

use super::{KubernetesExecutor, cluster::Cluster};
use crate::{error::ExecutorError, kubernetes_error::KubernetesError};

/// Verbs on a resource that an executor needs in its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource: `pods/log`.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: Vec<&'static str>,
}

/// Permissions that every job needs. Secrets are needed with `env_from` only.
const NEEDED: &[(&str, &str, &[&str])] = &[
    ("batch", "jobs", &["create", "get", "list", "watch", "patch", "delete"]),
    ("", "pods", &["list", "watch", "patch", "delete"]),
    ("", "pods/log", &["get"]),
    ("", "events", &["list"]),
    ("", "configmaps", &["create", "patch"]),
    ("", "services", &["create", "patch"]),
];
const SECRETS: (&str, &str, &[&str]) = ("", "secrets", &["create", "patch"]);

/// A node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// True if it takes new pods: ready, and not cordoned.
    pub is_usable: bool,
    /// Allocatable cores.
    pub cores: u64,
    /// Allocatable memory in bytes.
    pub memory: u64,
    /// Allocatable amounts of extended resources, such as `nvidia.com/gpu`.
    pub devices: BTreeMap<String, u64>,
}

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

impl Permission {
    /// Returns the resource with its group, as kubectl names it: `jobs.batch`, `pods/log`.
    pub fn full_name(&self) -> String {
        match (self.group, self.resource.split_once('/')) {
            ("", _) => self.resource.to_owned(),
            (group, Some((name, subresource))) => format!("{name}.{group}/{subresource}"),
            (group, None) => format!("{}.{group}", self.resource),
        }
    }

    /// Returns a name for a role with it.
    pub fn role_name(&self) -> String {
        format!("neva-run-{}", self.resource.replace('/', "-"))
    }
}

impl NodeFacts {
    /// Returns true if the node has all labels of `selector`.
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
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

/// Returns the permissions that the account lacks in the namespace.
async fn denied(cluster: &Cluster, with_secrets: bool) -> Result<Vec<Permission>, ExecutorError> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let mut denied = Vec::new();
    for (group, resource, verbs) in NEEDED.iter().copied().chain(with_secrets.then_some(SECRETS)) {
        let mut missing = Vec::new();
        for verb in verbs.iter().copied() {
            let (name, subresource) = resource.split_once('/').map_or((resource, None), |(name, sub)| (name, Some(sub)));
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.to_owned()),
                        namespace: Some(cluster.namespace.clone()),
                        resource: Some(name.to_owned()),
                        subresource: subresource.map(str::to_owned),
                        verb: Some(verb.to_owned()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = cluster.ask(reviews.create(&PostParams::default(), &review)).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                missing.push(verb);
            }
        }
        if !missing.is_empty() {
            denied.push(Permission {
                group,
                resource,
                verbs: missing,
            });
        }
    }
    Ok(denied)
}

/// Returns the nodes.
async fn nodes(cluster: &Cluster) -> Result<Vec<NodeFacts>, ExecutorError> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    Ok(cluster
        .ask(nodes.list(&ListParams::default()))
        .await?
        .items
        .iter()
        .map(node)
        .collect())
}

fn node(node: &Node) -> NodeFacts {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_ready = conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let empty = BTreeMap::new();
    let allocatable = status.and_then(|status| status.allocatable.as_ref()).unwrap_or(&empty);
    let amount = |name: &str| allocatable.get(name).map_or(0.0, amount);
    NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        is_usable: is_ready && !is_cordoned,
        cores: amount("cpu") as u64,
        memory: amount("memory") as u64,
        // Extended resources have a domain.
        devices: allocatable
            .keys()
            .filter(|name| name.contains('/'))
            .map(|name| (name.clone(), amount(name) as u64))
            .collect(),
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

/// Returns an amount as a number: `1500m` is 1.5, `2Ki` is 2048. An unreadable one is 0.
fn amount(quantity: &Quantity) -> f64 {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => 0.0,
    };
    number.parse::<f64>().unwrap_or(0.0) * factor
}
