//! Permissions that an executor needs, and those that an account lacks.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};

use super::super::cluster::Cluster;
use crate::error::ExecutorError;

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

/// Returns the permissions that the account lacks in the namespace.
pub(super) async fn denied(cluster: &Cluster, with_secrets: bool) -> Result<Vec<Permission>, ExecutorError> {
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
