//! Checks of a Kubernetes cluster: what a run on it needs.

use std::fmt::Write as _;

use neva_executors::{
    KubernetesExecutor,
    kubernetes::survey::{self, NodeFacts, Permission},
};

use super::checks::Checks;

/// What to do about an API server that says nothing.
pub(super) const UNREACHABLE: &str = "`kubectl cluster-info` asks the same server; set `context` or `kubeconfig` for another one";

/// Checks the cluster of an executor. The checks end at the first that the later ones need.
pub(super) async fn check(executor: &KubernetesExecutor) -> Checks {
    let mut doctor = Doctor {
        executor,
        checks: Checks::default(),
    };
    // The reason of an end is the last check.
    let _: Option<()> = doctor.run().await;
    doctor.checks
}

/// Checks so far.
pub(super) struct Doctor<'a> {
    pub(super) executor: &'a KubernetesExecutor,
    pub(super) checks: Checks,
}

impl Doctor<'_> {
    /// Runs the checks in order; `None` where one ends them.
    async fn run(&mut self) -> Option<()> {
        let cluster = match self.executor.survey().await {
            Ok(cluster) => cluster,
            Err(error) => return self.checks.error("cluster", &error, UNREACHABLE),
        };
        self.checks.ok(
            "cluster",
            format!(
                "Kubernetes {} at {}, namespace {}",
                cluster.version, cluster.place, cluster.namespace
            ),
        );
        self.permissions(&cluster.denied, &cluster.namespace)?;
        self.quotas(&cluster);
        self.nodes(&cluster)?;
        self.gpus(&cluster)?;
        self.storage(&cluster)?;
        self.pod().await
    }

    fn permissions(&mut self, denied: &[Permission], namespace: &str) -> Option<()> {
        const NAME: &str = "permission";
        if denied.is_empty() {
            self.checks.ok(NAME, format!("the account may run jobs in {namespace}"));
            return Some(());
        }
        let list: Vec<_> = denied
            .iter()
            .map(|permission| format!("{} {}", permission.verbs.join(", "), permission.full_name()))
            .collect();
        let mut role = format!("ask an administrator for this, in the namespace {namespace}:");
        for permission in denied {
            let name = permission.role_name();
            // Writing to a string succeeds.
            let _ = write!(
                role,
                "\n                   kubectl create role {name} -n {namespace} --verb={} --resource={}",
                permission.verbs.join(","),
                permission.full_name()
            );
            let _ = write!(
                role,
                "\n                   kubectl create rolebinding {name} -n {namespace} --role={name} --user=YOU"
            );
        }
        self.checks.problem(NAME, format!("the account may not {}", list.join("; ")), role)
    }

    fn quotas(&mut self, cluster: &survey::Survey) {
        for quota in cluster.quotas.as_deref().unwrap_or_default() {
            let amounts: Vec<_> = quota
                .amounts
                .iter()
                .map(|(name, (used, hard))| format!("{used} of {hard} {name}"))
                .collect();
            self.checks.ok("quota", format!("{}: {} used", quota.name, amounts.join(", ")));
        }
    }

    fn nodes(&mut self, cluster: &survey::Survey) -> Option<()> {
        const NAME: &str = "node";
        let Some(nodes) = &cluster.nodes else {
            self.checks
                .ok(NAME, "unknown: the account may not list nodes, which jobs do not need");
            return Some(());
        };
        let selector = &self.executor.config.node_selector;
        let selected: Vec<_> = nodes.iter().filter(|node| node.matches(selector)).collect();
        if selected.is_empty() {
            let labels: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let detail = if nodes.is_empty() {
                "the cluster has no nodes".to_owned()
            } else {
                format!("none of {} nodes has the labels {}", nodes.len(), labels.join(", "))
            };
            return self.checks.problem(
                NAME,
                detail,
                "set `node_selector` to labels of nodes: `kubectl get nodes --show-labels`",
            );
        }
        let usable: Vec<_> = selected.iter().filter(|node| node.is_usable).collect();
        let Some(largest) = usable.iter().max_by_key(|node| (node.cores, node.memory)) else {
            let names: Vec<_> = selected.iter().map(|node| node.name.as_str()).collect();
            let detail = format!("no node is ready and open for pods: {}", names.join(", "));
            return self.checks.problem(
                NAME,
                detail,
                "`kubectl get nodes` shows their states; `kubectl uncordon NODE` opens one",
            );
        };
        self.checks.ok(
            NAME,
            format!(
                "{} of {} usable, the largest with {} cores and {}",
                usable.len(),
                selected.len(),
                largest.cores,
                super::machine::size(largest.memory)
            ),
        );
        Some(())
    }

    fn gpus(&mut self, cluster: &survey::Survey) -> Option<()> {
        const NAME: &str = "gpu";
        let config = &self.executor.config;
        let Some(nodes) = &cluster.nodes else {
            self.checks.ok(NAME, "unknown: the account may not list nodes");
            return Some(());
        };
        let usable: Vec<_> = nodes
            .iter()
            .filter(|node| node.is_usable && node.matches(&config.node_selector))
            .collect();
        let resource = &config.gpu_resource;
        let gpus = |node: &NodeFacts| node.devices.get(resource).copied().unwrap_or(0);
        let most = usable.iter().map(|node| gpus(node)).max().unwrap_or(0);
        let with: usize = usable.iter().filter(|node| gpus(node) > 0).count();
        let wanted = config.gpus_per_node;
        if wanted.is_some_and(|wanted| u64::from(wanted) > most) {
            let wanted = wanted.unwrap_or_default();
            let others: Vec<_> = usable.iter().flat_map(|node| node.devices.keys()).collect();
            let others: std::collections::BTreeSet<_> = others.into_iter().filter(|name| *name != resource).collect();
            let others = match others.len() {
                0 => "the nodes offer no devices: the device plugin of the GPUs must run on them".to_owned(),
                _ => format!(
                    "`gpu_resource` may be one of {}",
                    others.into_iter().cloned().collect::<Vec<_>>().join(", ")
                ),
            };
            let detail = format!("`gpus_per_node` is {wanted}, and no usable node has more than {most} {resource}");
            return self
                .checks
                .problem(NAME, detail, format!("set `gpus_per_node: {most}`, or use other nodes; {others}"));
        }
        let detail = match (most, wanted) {
            (0, Some(0)) => "none wanted".to_owned(),
            (0, _) => format!("no usable node has {resource}: set `gpus_per_node: 0` for runs on CPUs"),
            _ => format!("{resource}: up to {most} on {with} of {} nodes", usable.len()),
        };
        self.checks.ok(NAME, detail);
        Some(())
    }

    fn storage(&mut self, cluster: &survey::Survey) -> Option<()> {
        const NAME: &str = "storage";
        let classes = match &cluster.storage_classes {
            Some(classes) if classes.is_empty() => "the cluster has no storage classes".to_owned(),
            Some(classes) => format!("storage classes: {}", classes.iter().cloned().collect::<Vec<_>>().join(", ")),
            None => "the account may not list storage classes".to_owned(),
        };
        let Some(dir) = self.executor.config.runs_dir() else {
            return self.checks.problem(
                NAME,
                "no volume is shared by the pods: checkpoints would end with them",
                format!("add a volume, as `volumes: [{{mount_path: /runs, claim: NAME}}]`, whose claim is ReadWriteMany; {classes}"),
            );
        };
        let mut details = vec![format!("runs are in {dir}")];
        for (name, claim) in &cluster.claims {
            let Some(claim) = claim else {
                return self.checks.problem(
                    NAME,
                    format!("there is no claim {name} in {}", cluster.namespace),
                    format!(
                        "create it, or name another one in `volumes`: `kubectl get pvc -n {}`; {classes}",
                        cluster.namespace
                    ),
                );
            };
            if claim.phase == "Lost" {
                let help = "its volume is gone: create the claim again";
                return self.checks.problem(NAME, format!("the claim {name} is lost"), help);
            }
            let bound = match claim.phase.as_str() {
                "Bound" => "bound",
                _ => "not bound yet",
            };
            let modes = claim.access_modes.join(", ");
            let note = if claim.access_modes.iter().any(|mode| mode == "ReadWriteMany") {
                ""
            } else {
                ": for runs on one node; several need ReadWriteMany"
            };
            details.push(format!("{name} is {bound}, {modes}{note}"));
        }
        details.push(classes);
        self.checks.ok(NAME, details.join("; "));
        Some(())
    }
}
