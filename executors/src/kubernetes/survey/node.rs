//! Nodes of a cluster, and what they offer to pods.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use kube::{Api, api::ListParams};

use super::super::cluster::Cluster;
use crate::error::ExecutorError;

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

impl NodeFacts {
    /// Returns true if the node has all labels of `selector`.
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// Returns the nodes.
pub(super) async fn nodes(cluster: &Cluster) -> Result<Vec<NodeFacts>, ExecutorError> {
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
