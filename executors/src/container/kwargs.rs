//! Further settings of a container: names of the Docker SDK for Python, and fields of the Docker API.

use std::collections::BTreeMap;

use bollard::models::ContainerCreateBody;
use neva_schemas::memory_size;
use serde_json::{Map, Value, json};

use crate::error::ExecutorError;

/// Arguments of the SDK's `containers.run` with the fields that they set. `/` is a level.
const SDK: &[(&str, &str)] = &[
    ("cap_add", "HostConfig/CapAdd"),
    ("cap_drop", "HostConfig/CapDrop"),
    ("cgroup_parent", "HostConfig/CgroupParent"),
    ("cpu_period", "HostConfig/CpuPeriod"),
    ("cpu_quota", "HostConfig/CpuQuota"),
    ("cpu_shares", "HostConfig/CpuShares"),
    ("cpuset_cpus", "HostConfig/CpusetCpus"),
    ("cpuset_mems", "HostConfig/CpusetMems"),
    ("dns", "HostConfig/Dns"),
    ("domainname", "Domainname"),
    ("entrypoint", "Entrypoint"),
    ("group_add", "HostConfig/GroupAdd"),
    ("hostname", "Hostname"),
    ("init", "HostConfig/Init"),
    ("mem_limit", "HostConfig/Memory"),
    ("mem_reservation", "HostConfig/MemoryReservation"),
    ("memswap_limit", "HostConfig/MemorySwap"),
    ("mem_swappiness", "HostConfig/MemorySwappiness"),
    ("nano_cpus", "HostConfig/NanoCpus"),
    ("oom_kill_disable", "HostConfig/OomKillDisable"),
    ("oom_score_adj", "HostConfig/OomScoreAdj"),
    ("pids_limit", "HostConfig/PidsLimit"),
    ("read_only", "HostConfig/ReadonlyRootfs"),
    ("security_opt", "HostConfig/SecurityOpt"),
    ("shm_size", "HostConfig/ShmSize"),
    ("sysctls", "HostConfig/Sysctls"),
    ("userns_mode", "HostConfig/UsernsMode"),
    ("uts_mode", "HostConfig/UTSMode"),
];

/// Amounts of memory, which may be texts as `64g`.
const SIZES: &[&str] = &["mem_limit", "mem_reservation", "memswap_limit", "shm_size"];

/// Fields on which the launcher depends, with what to use instead.
const OURS: &[(&str, &str)] = &[
    ("Cmd", "a `run.Script`"),
    ("Env", "`env_vars`"),
    ("Image", "`container_image`"),
    ("User", "`user`"),
    ("HostConfig/AutoRemove", "`docker rm` after the job"),
    ("HostConfig/Binds", "`volumes`"),
    ("HostConfig/Mounts", "`volumes`"),
    ("HostConfig/NetworkMode", "`network`"),
    ("HostConfig/RestartPolicy", "`retries`"),
    ("Tty", "`neva-run experiment logs`"),
];

/// Arguments of the SDK that have a field, or no meaning here.
const INSTEAD: &[(&str, &str)] = &[
    ("auto_remove", "`docker rm` after the job"),
    ("command", "a `run.Script`"),
    ("detach", "`--detach` of an experiment"),
    ("device_requests", "`num_gpus`, or the field `HostConfig: {DeviceRequests: [...]}`"),
    ("devices", "the field `HostConfig: {Devices: [...]}`"),
    ("environment", "`env_vars`"),
    ("image", "`container_image`"),
    ("ipc_mode", "`ipc_mode` of the executor"),
    ("labels", "the field `Labels: {...}`"),
    ("mounts", "`volumes`"),
    ("name", "the run's name"),
    ("network", "`network` of the executor"),
    ("network_mode", "`network`"),
    (
        "pid_mode",
        "the container's own process namespace, by which its processes end together",
    ),
    ("privileged", "`privileged` of the executor"),
    ("remove", "`docker rm` after the job"),
    ("restart_policy", "`retries`"),
    ("runtime", "`runtime` of the executor"),
    ("ulimits", "`ulimits` of the executor"),
    ("user", "`user` of the executor"),
    ("volumes", "`volumes` of the executor"),
];

/// Merges the settings into the body of a request.
///
/// # Errors
/// A name that neither the SDK nor the API has, or a field on which the launcher depends.
pub(super) fn merge(body: &mut Value, settings: &BTreeMap<String, Value>) -> Result<(), ExecutorError> {
    for (name, value) in settings {
        if name.starts_with(|c: char| c.is_ascii_uppercase()) {
            if let Some((field, instead)) = OURS.iter().find(|(field, _)| has_field(name, value, field)) {
                return Err(refused(format!("sets `{}`", field.replace('/', ".")), format!("use {instead}")));
            }
            if has_field(name, value, "HostConfig/PidMode") {
                let reason = "sets `HostConfig.PidMode`, but the processes of a job end with their own process namespace";
                return Err(refused(reason.to_owned(), "remove it".to_owned()));
            }
            merge_value(&mut body[name.as_str()], value);
            continue;
        }
        if let Some((_, instead)) = INSTEAD.iter().find(|(known, _)| known == name) {
            return Err(refused(format!("sets `{name}`"), format!("use {instead}")));
        }
        let field = SDK.iter().find(|(known, _)| known == name);
        let Some((_, field)) = field else {
            let names: Vec<_> = SDK.iter().map(|(name, _)| *name).collect();
            let help = format!("use one of {}, or a field of the Docker API, as `HostConfig`", names.join(", "));
            return Err(refused(format!("has no {name:?}"), help));
        };
        let (level, field) = field.split_once('/').map_or((None, *field), |(level, field)| (Some(level), field));
        let place = match level {
            Some(level) => &mut body[level][field],
            None => &mut body[field],
        };
        *place = value_of(name, value)?;
    }
    check_known(body)
}

/// Returns the API's value of an argument of the SDK.
fn value_of(name: &str, value: &Value) -> Result<Value, ExecutorError> {
    match value {
        Value::String(text) if SIZES.contains(&name) => memory_size(text).map(|size| json!(size)).ok_or_else(|| {
            let reason = format!("sets `{name}` to {text:?}, which is not an amount of memory");
            refused(reason, "write a number with k, m or g, as `64g`".to_owned())
        }),
        Value::String(text) if name == "entrypoint" => Ok(json!([text])),
        other => Ok(other.clone()),
    }
}

fn refused(reason: String, help: String) -> ExecutorError {
    ExecutorError::Refused {
        message: format!("`executor.additional_kwargs` {reason}"),
        help,
    }
}

/// Returns true if the setting contains the field `field`.
fn has_field(name: &str, value: &Value, field: &str) -> bool {
    match field.split_once('/') {
        Some((level, field)) => level == name && value.get(field).is_some(),
        None => name == field,
    }
}

/// Merges maps; replaces other values.
fn merge_value(place: &mut Value, value: &Value) {
    match (place, value) {
        (Value::Object(place), Value::Object(fields)) => {
            for (name, value) in fields {
                merge_value(place.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (place, value) => *place = value.clone(),
    }
}

/// Checks that every field is one of the API and has its type: the runtime ignores others.
fn check_known(body: &Value) -> Result<(), ExecutorError> {
    let help = "the fields are those of `POST /containers/create` in the Docker API's reference";
    let typed: ContainerCreateBody = serde_json::from_value(body.clone())
        .map_err(|error| refused(format!("has a value that the Docker API does not take: {error}"), help.to_owned()))?;
    let known = serde_json::to_value(&typed)?;
    match unknown(body, &known, String::new()) {
        Some(field) => Err(refused(
            format!("sets `{field}`, which the Docker API does not have"),
            help.to_owned(),
        )),
        None => Ok(()),
    }
}

/// Returns the path of the first field of `value` that `known` lacks.
fn unknown(value: &Value, known: &Value, path: String) -> Option<String> {
    let empty = Map::new();
    match value {
        Value::Object(fields) => fields.iter().filter(|(_, value)| !value.is_null()).find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.as_object().unwrap_or(&empty).get(name) {
                Some(known) => unknown(value, known, path),
                None => Some(path),
            }
        }),
        Value::Array(items) => {
            let known = known.as_array();
            items
                .iter()
                .enumerate()
                .find_map(|(index, item)| unknown(item, known?.get(index)?, format!("{path}[{index}]")))
        }
        _ => None,
    }
}
