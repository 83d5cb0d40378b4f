//! Validation of the Kubernetes executor.

use super::name::{is_dns_label, is_dns_name, is_label_key, is_label_value, is_quantity};
use super::{KubernetesExecutorConfig, KubernetesVolume, VolumeSource};
use crate::node_path::program_problem;
use crate::validate::{Problem, Validate};
use crate::variable::{validate_variable, variable_name_error};
use std::collections::BTreeSet;

/// Folders of the pods that are the executor's own.
const OWN_FOLDERS: &str = "/neva";

impl Validate for KubernetesExecutorConfig {
    fn validate(&self, path: &str, problems: &mut Vec<Problem>) {
        let field = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        self.validate_image(&field, problems);
        self.validate_names(&field, problems);
        self.validate_resources(&field, problems);
        self.validate_parts(&field, problems);
        self.validate_times(&field, problems);
        self.validate_environment(&field, problems);
        self.validate_folders(&field, problems);
    }
}

impl KubernetesExecutorConfig {
    fn validate_image(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        match self.image.as_deref().map(str::trim) {
            None | Some("") => problems.push(
                Problem::error(field("image"), "pods need an image with the rank program")
                    .help("set `image: REGISTRY/NAME:TAG`; docs/kubernetes.md shows how to make one"),
            ),
            Some(image) if image.contains(char::is_whitespace) => {
                problems.push(Problem::error(field("image"), format!("{image:?} is not the name of an image")));
            }
            Some(_) => {}
        }
        let policies = ["Always", "IfNotPresent", "Never"];
        if let Some(policy) = self.image_pull_policy.as_deref().filter(|policy| !policies.contains(policy)) {
            problems.push(
                Problem::error(field("image_pull_policy"), format!("`image_pull_policy` is {policy:?}"))
                    .help(format!("use one of {}", policies.join(", "))),
            );
        }
        if self.rank_program.is_empty() {
            problems
                .push(Problem::error(field("rank_program"), "`rank_program` is empty").help("remove it, or name the program in the image"));
        }
        problems.extend(program_problem(field("rank_program"), &self.rank_program, "in the image"));
    }

    fn validate_names(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let labels = [("namespace", &self.namespace)];
        for (name, value) in labels {
            if let Some(value) = value.as_ref().filter(|value| !is_dns_label(value)) {
                let message = format!("{value:?} is not the name of a namespace");
                problems.push(Problem::error(field(name), message).help("use small letters, digits and `-`"));
            }
        }
        let names = [
            ("priority_class", &self.priority_class),
            ("service_account", &self.service_account),
            ("queue", &self.queue),
        ];
        let secrets = self.image_pull_secrets.iter().map(|name| ("image_pull_secrets", name));
        let names = names
            .iter()
            .filter_map(|(field, name)| Some((*field, name.as_ref()?)))
            .chain(secrets);
        let names = names.chain([("training_runtime", &self.training_runtime)]);
        for (name, value) in names.filter(|(_, value)| !is_dns_name(value)) {
            let message = format!("{value:?} is not a name of Kubernetes");
            problems.push(Problem::error(field(name), message).help("use small letters, digits, `-` and `.`"));
        }
        for (name, map, has_values) in [
            ("labels", &self.labels, true),
            ("annotations", &self.annotations, false),
            ("node_selector", &self.node_selector, true),
        ] {
            for (key, value) in map {
                if !is_label_key(key) {
                    let message = format!("{key:?} is not a key of Kubernetes");
                    problems.push(Problem::error(field(name), message).help("write `name` or `example.org/name`"));
                } else if has_values && !is_label_value(value) {
                    let message = format!("{value:?} is not a value of the label `{key}`");
                    problems.push(Problem::error(field(name), message).help("use at most 63 letters, digits, `-`, `_` and `.`"));
                }
            }
        }
    }

    fn validate_resources(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let quantities = [("requests", &self.requests), ("limits", &self.limits)];
        let quantities = quantities.iter().flat_map(|(name, map)| map.values().map(|value| (*name, value)));
        let sizes = self
            .volumes
            .iter()
            .filter_map(|volume| volume.empty_dir.as_ref())
            .filter(|size| !size.is_empty());
        let sizes = sizes
            .map(|size| ("volumes", size))
            .chain(self.shm_size.as_ref().map(|size| ("shm_size", size)));
        for (name, value) in quantities.chain(sizes).filter(|(_, value)| !is_quantity(value)) {
            let message = format!("{value:?} is not a quantity of Kubernetes");
            problems.push(Problem::error(field(name), message).help("write `8`, `500m` or `64Gi`"));
        }
        for (name, map) in [("requests", &self.requests), ("limits", &self.limits)] {
            if map.contains_key(&self.gpu_resource) {
                let message = format!("`{name}` contains {}, which `gpus_per_node` requests", self.gpu_resource);
                problems.push(Problem::error(field(name), message).help("remove it, and set `gpus_per_node`"));
            }
        }
        if !is_label_key(&self.gpu_resource) {
            let message = format!("{:?} is not the name of a resource", self.gpu_resource);
            problems.push(Problem::error(field("gpu_resource"), message).help("write it as `nvidia.com/gpu`"));
        }
    }

    /// Parts that are written as in a pod are checked when the job is rendered; here only that they are maps.
    fn validate_parts(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let maps = [
            ("affinity", &self.affinity),
            ("security_context", &self.security_context),
            ("container_security_context", &self.container_security_context),
        ];
        let maps = maps.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let lists = [
            ("tolerations", &self.tolerations),
            ("topology_spread_constraints", &self.topology_spread_constraints),
        ];
        let items = lists
            .into_iter()
            .flat_map(|(name, items)| items.iter().map(move |item| (name, item)));
        for (name, _) in maps.chain(items).filter(|(_, value)| !value.is_object()) {
            problems.push(Problem::error(
                field(name),
                format!("`{name}` is written as in a pod, with names and values"),
            ));
        }
        if self.overrides.keys().any(String::is_empty) {
            problems.push(Problem::error(field("overrides"), "a path of `overrides` is empty"));
        }
    }

    fn validate_times(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let day = 86_400;
        for (name, seconds) in [
            ("termination_grace_period_seconds", self.termination_grace_period_seconds),
            ("settle_s", self.settle_s),
        ] {
            if seconds > day {
                let message = format!("`{name}` {seconds} is longer than a day ({day} seconds)");
                problems.push(Problem::error(field(name), message));
            }
        }
        if !(1..=600).contains(&self.request_timeout_s) {
            let message = format!("`request_timeout_s` is {}, it must be from 1 to 600", self.request_timeout_s);
            problems.push(Problem::error(field("request_timeout_s"), message));
        }
        if self.active_deadline_seconds == Some(0) {
            problems.push(Problem::error(field("active_deadline_seconds"), "a job needs time to run").help("remove it, or raise it"));
        }
        if self.backoff_limit_per_index.is_some() && self.retries > 0 {
            let message = "both `retries` and `backoff_limit_per_index` are set";
            problems.push(Problem::error(field("backoff_limit_per_index"), message).help("remove one of them"));
        }
        if self.master_port == 0 {
            problems.push(Problem::error(field("master_port"), "ranks need a port that all of them know").help("remove it"));
        }
    }

    fn validate_environment(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        for (name, value) in &self.env_vars {
            validate_variable(&field("env_vars"), name, value, problems);
        }
        for (index, name) in self.env_from.iter().enumerate() {
            let path = format!("{}[{index}]", field("env_from"));
            problems.extend(variable_name_error(name).map(|message| Problem::error(path, message)));
        }
        for (name, reference) in &self.env_secrets {
            problems.extend(variable_name_error(name).map(|message| Problem::error(field("env_secrets"), message)));
            let parts = reference
                .split_once('/')
                .filter(|(secret, key)| is_dns_name(secret) && !key.is_empty());
            if parts.is_none() {
                let message = format!("the value of `{name}` is not the name of a Secret and a key in it");
                problems.push(
                    Problem::error(field("env_secrets"), message)
                        .help(format!("write `{name}: SECRET/KEY`; a value itself does not belong here"))
                        .secret(),
                );
            }
            if self.env_from.contains(name) || self.env_vars.contains_key(name) {
                let message = format!("`{name}` is set twice");
                problems.push(Problem::error(field("env_secrets"), message).help("remove it from `env_vars` and `env_from`"));
            }
        }
    }

    fn validate_folders(&self, field: &dyn Fn(&str) -> String, problems: &mut Vec<Problem>) {
        let mut paths = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let place = format!("{}[{index}]", field("volumes"));
            validate_volume(volume, &place, problems);
            if !paths.insert(volume.mount_path.trim_end_matches('/')) {
                let message = format!("two volumes are mounted at {:?}", volume.mount_path);
                problems.push(Problem::error(format!("{place}.mount_path"), message));
            }
        }
        let Some(dir) = &self.dir else { return };
        if !dir.starts_with('/') {
            problems.push(Problem::error(field("dir"), format!("{dir:?} is not an absolute path")));
        } else if self.volume_of(dir).is_none() {
            let message = format!("no volume of `volumes` contains {dir}, so runs would be lost with their pods");
            problems.push(Problem::error(field("dir"), message).help("mount one there, or name a folder in one"));
        }
    }
}

fn validate_volume(volume: &KubernetesVolume, place: &str, problems: &mut Vec<Problem>) {
    let path = &volume.mount_path;
    let is_own = path
        .strip_prefix(OWN_FOLDERS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !path.starts_with('/') || path.trim_matches('/').is_empty() || path.contains(':') {
        let message = format!("{path:?} is not a path to mount a volume at");
        problems.push(Problem::error(format!("{place}.mount_path"), message).help("write an absolute path"));
    } else if is_own {
        let message = format!("{OWN_FOLDERS} is used by neva-run itself");
        problems.push(Problem::error(format!("{place}.mount_path"), message).help("choose another path"));
    }
    let sources = volume.sources();
    let [source] = sources.as_slice() else {
        let message = match sources.len() {
            0 => "the volume has no source",
            _ => "the volume has several sources",
        };
        problems
            .push(Problem::error(place, message).help("set one of `claim`, `nfs`, `host_path`, `empty_dir`, `config_map` and `secret`"));
        return;
    };
    let (name, is_good) = match source {
        VolumeSource::Claim(name) => ("claim", is_dns_name(name)),
        VolumeSource::ConfigMap(name) => ("config_map", is_dns_name(name)),
        VolumeSource::Secret(name) => ("secret", is_dns_name(name)),
        VolumeSource::HostPath(path) => ("host_path", path.starts_with('/')),
        VolumeSource::Nfs(nfs) => ("nfs", !nfs.server.is_empty() && nfs.path.starts_with('/')),
        VolumeSource::EmptyDir(_) => ("empty_dir", true),
    };
    if !is_good {
        let help = match name {
            "host_path" => "write an absolute path",
            "nfs" => "write `{server: HOST, path: /EXPORTED}`",
            _ => "write the name of an object in the namespace",
        };
        problems.push(Problem::error(format!("{place}.{name}"), format!("`{name}` cannot be mounted")).help(help));
    }
    if volume
        .sub_path
        .as_ref()
        .is_some_and(|path| path.starts_with('/') || path.split('/').any(|part| part == ".."))
    {
        problems.push(Problem::error(
            format!("{place}.sub_path"),
            "`sub_path` is not a folder within the volume",
        ));
    }
}
