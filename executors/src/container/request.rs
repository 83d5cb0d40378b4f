//! Renders the request that creates the container, in the fields of the Docker API.

use std::path::Path;

use neva_schemas::{DockerExecutorConfig, Ulimit, Volume, env, memory_size};
use serde_json::{Map, Value, json};

use super::{SHELL, kwargs, script::SCRIPT_FILE};
use crate::{error::ExecutorError, submission::Process};

/// NeMo-Run's path of the job's folder in the container.
const NEMO_RUN: &str = "/nemo_run";
/// Port of the ranks' store in a container with a network of its own.
const OWN_PORT: &str = "29500";

/// Label with the job's folder, by which a later launcher finds the container.
pub(super) const FOLDER_LABEL: &str = "neva-run.folder";
const NAME_LABEL: &str = "neva-run.name";

/// What the request is made from.
pub(super) struct Job<'a> {
    pub(super) config: &'a DockerExecutorConfig,
    /// User of the processes.
    pub(super) user: &'a str,
    pub(super) dir: &'a Path,
    /// Name of the run.
    pub(super) name: &'a str,
    /// The first process.
    pub(super) process: &'a Process,
    /// GPUs for a run on GPUs that names no number; 0 for others.
    pub(super) gpus: u32,
}

/// Returns the body of the request.
pub(super) fn body(job: &Job<'_>) -> Result<Value, ExecutorError> {
    let config = job.config;
    let dir = job
        .dir
        .to_str()
        .ok_or_else(|| ExecutorError::NotUtf8 { path: job.dir.to_owned() })?;
    let mut body = json!({
        "Image": config.container_image,
        "Entrypoint": [SHELL],
        "Cmd": [format!("{dir}/{SCRIPT_FILE}")],
        "User": job.user,
        "WorkingDir": dir,
        "Env": environment(job),
        "Labels": { FOLDER_LABEL: dir, NAME_LABEL: job.name },
        "StopSignal": "SIGTERM",
        "StopTimeout": config.grace_s + 5,
        "HostConfig": host_config(job, dir),
    });
    if !config.healthcheck.is_empty() {
        body["Healthcheck"] = healthcheck(config);
    }
    kwargs::merge(&mut body, &config.additional_kwargs)?;
    Ok(body)
}

/// Returns the body of a request without a job.
pub(super) fn probe(config: &DockerExecutorConfig, user: &str) -> Result<Value, ExecutorError> {
    let process = Process {
        argv: Vec::new(),
        env: Default::default(),
        working_directory: None,
        log: Default::default(),
    };
    let mut body = body(&Job {
        config,
        user,
        dir: Path::new("/"),
        name: "doctor",
        process: &process,
        gpus: 0,
    })?;
    body["HostConfig"]["Mounts"] = json!([]);
    Ok(body)
}

/// Returns true if the container has the machine's network, in which a port may be in use.
pub(super) fn is_host_network(body: &Value) -> bool {
    body["HostConfig"]["NetworkMode"] == "host"
}

/// Replaces the port in the body.
pub(super) fn set_port(body: &mut Value, port: u16) {
    let name = format!("{}=", env::MASTER_PORT);
    let variables = body["Env"].as_array_mut().into_iter().flatten();
    for variable in variables.filter(|text| text.as_str().is_some_and(|text| text.starts_with(&name))) {
        *variable = json!(format!("{name}{port}"));
    }
}

/// Returns the variables that the script does not set.
fn environment(job: &Job<'_>) -> Vec<String> {
    let is_rank = job.process.env.contains_key(env::MASTER_PORT);
    let is_host = job.config.network.as_deref() == Some("host");
    let port = if is_host { "0" } else { OWN_PORT };
    is_rank.then(|| format!("{}={port}", env::MASTER_PORT)).into_iter().collect()
}

fn host_config(job: &Job<'_>, dir: &str) -> Value {
    let config = job.config;
    let mount = |target: &str| json!({ "Type": "bind", "Source": dir, "Target": target });
    let mut host = Map::new();
    host.insert("Mounts".into(), json!([mount(dir), mount(NEMO_RUN)]));
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            host.insert(name.to_owned(), value);
        }
    };
    let binds: Vec<_> = config.volumes.iter().filter_map(|text| Volume::parse(text).ok()).collect();
    set("Binds", (!binds.is_empty()).then(|| binds.iter().map(Volume::bind).collect()));
    set("NetworkMode", config.network.as_ref().map(|mode| json!(mode)));
    set("IpcMode", config.ipc_mode.as_ref().map(|mode| json!(mode)));
    set("ShmSize", config.shm_size.as_deref().and_then(memory_size).map(|size| json!(size)));
    set("Runtime", config.runtime.as_ref().map(|runtime| json!(runtime)));
    set("Privileged", config.privileged.then(|| json!(true)));
    let limits: Vec<_> = config.ulimits.iter().filter_map(|text| Ulimit::parse(text)).collect();
    let limit = |limit: &Ulimit| json!({ "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard });
    set("Ulimits", (!limits.is_empty()).then(|| limits.iter().map(limit).collect()));
    set("DeviceRequests", gpus(job));
    Value::Object(host)
}

/// Requests GPUs: those that `CUDA_VISIBLE_DEVICES` names, else a number.
fn gpus(job: &Job<'_>) -> Option<Value> {
    let chosen = job.process.env.get(env::CUDA_VISIBLE_DEVICES);
    let count = job.config.num_gpus.unwrap_or_else(|| i64::from(job.gpus));
    let request = match chosen {
        Some(chosen) if count != 0 && !chosen.is_empty() => {
            let devices: Vec<_> = chosen.split(',').map(str::trim).collect();
            json!({ "DeviceIDs": devices })
        }
        _ => json!({ "Count": count }),
    };
    (count != 0).then(|| {
        let mut request = request;
        request["Capabilities"] = json!([["gpu", "compute", "utility"]]);
        json!([request])
    })
}

/// Returns the health check in the API's names.
fn healthcheck(config: &DockerExecutorConfig) -> Value {
    let name = |name: &str| match name {
        "test" => "Test",
        "interval" => "Interval",
        "timeout" => "Timeout",
        "retries" => "Retries",
        _ => "StartPeriod",
    };
    let value = |key: &str, value: &Value| match value {
        // The SDK takes a text as a command of the shell.
        Value::String(text) if key == "test" => json!(["CMD-SHELL", text]),
        other => other.clone(),
    };
    let fields = config.healthcheck.iter();
    Value::Object(fields.map(|(key, text)| (name(key).to_owned(), value(key, text))).collect())
}
