//! The template of the pods.

use std::collections::BTreeMap;

use neva_schemas::KubernetesExecutorConfig;
use serde_json::{Map, Value, json};

use super::{
    super::names::{Names, annotations, labels},
    START_FILE,
    shape::Shape,
    volumes::Volumes,
    work::Work,
};

/// Name of the container in which the ranks run.
pub(in crate::kubernetes) const CONTAINER: &str = "ranks";
/// Label of nodes with their name.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Terms of an affinity without which a pod is not scheduled.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Returns the template of the pods.
pub(super) fn pod_template(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, names: &Names) -> Value {
    let Volumes { volumes, mounts } = Volumes::new(config, names);
    let mut spec = Map::new();
    let mut set = |name: &str, value: Value| {
        let is_empty = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !is_empty {
            spec.insert(name.to_owned(), value);
        }
    };
    if shape.pods > 1 {
        set("subdomain", json!(names.job));
    }
    set("restartPolicy", json!("Never"));
    set("terminationGracePeriodSeconds", json!(config.termination_grace_period_seconds));
    set("enableServiceLinks", json!(false));
    match &config.service_account {
        Some(account) => set("serviceAccountName", json!(account)),
        // Ranks ask nothing of the API server.
        None => set("automountServiceAccountToken", json!(false)),
    }
    set("priorityClassName", json!(config.priority_class));
    set("schedulerName", json!(config.scheduler));
    if config.host_network {
        set("hostNetwork", json!(true));
        set("dnsPolicy", json!("ClusterFirstWithHostNet"));
    }
    let secrets: Vec<_> = config.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    set("imagePullSecrets", json!(secrets));
    set("securityContext", json!(config.security_context));
    set("nodeSelector", json!(config.node_selector));
    set("tolerations", json!(config.tolerations));
    set("affinity", affinity(config, shape, names));
    set("topologySpreadConstraints", topology_spread(config, names));
    set("containers", json!([container(config, work, shape, names, &mounts)]));
    set("volumes", json!(volumes));
    json!({
        "metadata": { "labels": labels(config, names), "annotations": annotations(config, names) },
        "spec": spec,
    })
}

fn container(config: &KubernetesExecutorConfig, work: Work<'_>, shape: Shape, names: &Names, mounts: &[Value]) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": config.image,
        "command": ["/bin/sh", format!("/neva/job/{START_FILE}")],
    });
    if let Some(policy) = &config.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let env = environment(config, work, names);
    if !env.is_empty() {
        container["env"] = env.into();
    }
    let resources = resources(config, shape);
    if !resources.is_empty() {
        container["resources"] = resources.into();
    }
    if let Some(context) = &config.container_security_context {
        container["securityContext"] = context.clone();
    }
    container["volumeMounts"] = json!(mounts);
    container
}

/// Returns the variables of the container. Kubernetes expands `$(NAME)` in their values, and reads `$$` as `$`.
fn environment(config: &KubernetesExecutorConfig, work: Work<'_>, names: &Names) -> Vec<Value> {
    let plain = work
        .env()
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value.replace('$', "$$") }));
    let reference =
        |name: &str, secret: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } });
    let secrets = config.env_secrets.iter().filter_map(|(name, place)| {
        let (secret, key) = place.split_once('/')?;
        Some(reference(name, secret, key))
    });
    // A variable that the launcher does not have is not set for the ranks either.
    let from = config.env_from.iter().map(|name| {
        let mut variable = reference(name, &names.secret(), name);
        variable["valueFrom"]["secretKeyRef"]["optional"] = json!(true);
        variable
    });
    plain.chain(secrets).chain(from).collect()
}

fn resources(config: &KubernetesExecutorConfig, shape: Shape) -> Map<String, Value> {
    let mut limits: BTreeMap<_, _> = config.limits.clone();
    if shape.gpus_per_pod > 0 {
        limits.insert(config.gpu_resource.clone(), shape.gpus_per_pod.to_string());
    }
    let maps = [("requests", &config.requests), ("limits", &limits)];
    let maps = maps.into_iter().filter(|(_, map)| !map.is_empty());
    maps.map(|(name, map)| (name.to_owned(), json!(map))).collect()
}

/// Returns the affinity: that of the config, and the pods of the job apart from each other.
fn affinity(config: &KubernetesExecutorConfig, shape: Shape, names: &Names) -> Value {
    let own = config.affinity.clone();
    if !config.one_pod_per_node || shape.pods == 1 {
        return json!(own);
    }
    let term = json!({ "labelSelector": { "matchLabels": names.selector() }, "topologyKey": HOSTNAME });
    let mut affinity = own.unwrap_or_else(|| json!({}));
    // What has another shape is left as it is, and the check of the whole Job reports it.
    if let Some(affinity) = affinity.as_object_mut()
        && let Some(apart) = affinity.entry("podAntiAffinity").or_insert_with(|| json!({})).as_object_mut()
        && let Some(terms) = apart.entry(REQUIRED).or_insert_with(|| json!([])).as_array_mut()
    {
        terms.push(term);
    }
    affinity
}

fn topology_spread(config: &KubernetesExecutorConfig, names: &Names) -> Value {
    let constraint = |constraint: &Value| {
        let mut constraint = constraint.clone();
        if let Some(map) = constraint.as_object_mut() {
            map.entry("labelSelector")
                .or_insert_with(|| json!({ "matchLabels": names.selector() }));
        }
        constraint
    };
    config.topology_spread_constraints.iter().map(constraint).collect()
}
