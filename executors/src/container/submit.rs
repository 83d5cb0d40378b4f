//! Submission of a job: its folder, then its container.

use std::path::Path;

use neva_schemas::Volume;
use serde_json::Value;

use super::{
    DockerExecutor,
    api::Runtime,
    folder::{JobFolder, JobRecord, LOCK_FILE},
    inspect::ContainerState,
    request, variables,
};
use crate::{
    container_error::ContainerError,
    error::ExecutorError,
    folder_lock::FolderLock,
    job::JobHandle,
    job_files::failed,
    local::free_port,
    packager::pack,
    submission::{JobKind, Payload, Submission},
    tunnel::LocalTunnel,
};

/// Folder of packed code beside the folders of runs.
const ARCHIVES: &str = ".neva-run/archives";

/// Modes of a network that are not names.
const MODES: &[&str] = &["host", "none", "bridge", "default", "slirp4netns", "pasta", "private"];

/// Starts the job.
pub(super) async fn submit(executor: &DockerExecutor, submission: &Submission) -> Result<JobHandle, ExecutorError> {
    let dir = &submission.dir;
    let Some((name, body)) = manifest(submission) else {
        return Err(ExecutorError::NoMesh { ranks: 0 });
    };
    check_volumes(executor)?;
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let running = || ExecutorError::AlreadyRunning { dir: dir.clone() };
    let path = dir.join(LOCK_FILE);
    let lock_path = path.clone();
    let lock = tokio::task::spawn_blocking(move || FolderLock::take(&lock_path)).await;
    let lock = lock.unwrap_or_else(|error| Err(error.into())).map_err(failed("lock", &path))?;
    let _lock = lock.ok_or_else(running)?;

    let runtime = executor.runtime();
    if let Some(earlier) = runtime.inspect(&name).await? {
        if earlier.folder != dir.to_string_lossy() {
            return Err(ContainerError::Refused {
                words: format!("there is a container {name}, which is not of this job"),
                help: Some(format!("remove it with `docker rm {name}`")),
            }
            .into());
        }
        match earlier.state {
            // The script has recorded the end, and is exiting.
            ContainerState::Running if has_ended(submission)? => runtime.remove(&name).await?,
            ContainerState::Running | ContainerState::Paused => return Err(running()),
            // One that was created and not started is of a launcher that was killed.
            ContainerState::Created | ContainerState::Ended => runtime.remove(&name).await?,
        }
    }
    // Podman's API ignores a runtime that it does not have.
    if let Some(named) = &executor.config.runtime {
        let known = runtime.version().await?.runtimes;
        if !known.contains(named) {
            return Err(ContainerError::Refused {
                words: format!("there is no runtime `{named}`; there are {}", known.join(", ")),
                help: Some("remove `runtime` from the executor, or install it, as the NVIDIA Container Toolkit".to_owned()),
            }
            .into());
        }
    }
    let image = &executor.config.container_image;
    if !runtime.has_image(image).await? {
        tracing::info!("pulling the image {image}");
        runtime.pull(image).await?;
    }
    if let Some(network) = network(executor) {
        runtime.ensure_network(network).await?;
    }
    let job = JobFolder::prepare(submission, |failures_from| JobRecord {
        container: name.clone(),
        is_script: submission.kind == JobKind::Script,
        failures_from,
        exit_timeout_s: exit_timeout_s(submission),
    })?;
    let started = start(executor, &runtime, &job, &name, body).await;
    if let Err(error) = started {
        // The first error is the cause.
        let _ = runtime.remove(&name).await;
        let _ = job.forget();
        return Err(error);
    }
    Ok(job.handle())
}

/// Refuses a folder to mount that does not exist.
fn check_volumes(executor: &DockerExecutor) -> Result<(), ContainerError> {
    let volumes = executor.config.volumes.iter().filter_map(|text| Volume::parse(text).ok());
    let mut folders = volumes.map(|volume| volume.source).filter(|source| source.starts_with('/'));
    match folders.find(|source| !Path::new(source).exists()) {
        Some(source_path) => Err(ContainerError::NoFolder { source_path }),
        None => Ok(()),
    }
}

/// Returns true if all ranks of the folder's earlier job have ended.
fn has_ended(submission: &Submission) -> Result<bool, ExecutorError> {
    let job = JobFolder::at(submission.dir.clone())?;
    Ok(job.map(|job| job.exits()).transpose()?.is_some_and(|exits| exits.is_whole))
}

/// Creates and starts the container.
async fn start(executor: &DockerExecutor, runtime: &Runtime, job: &JobFolder, name: &str, mut body: Value) -> Result<(), ExecutorError> {
    let dir = job.files.dir();
    if let Some(package) = pack(&executor.config.packager, &executor.folder).await? {
        for warning in package.warnings() {
            tracing::warn!("{warning}");
        }
        let archives = dir.parent().unwrap_or(dir).join(ARCHIVES);
        package.send(&LocalTunnel, dir, &archives).await?;
    }
    if request::is_host_network(&body) {
        request::set_port(&mut body, free_port()?);
    }
    let has_variables = !executor.config.env_from.is_empty();
    if has_variables {
        variables::create_pipe(dir, &executor.user)?;
    }
    match runtime.create(name, &body).await {
        // The answer to a request that took effect may have been lost.
        Err(error) if error.is_connection_lost() && runtime.inspect(name).await?.is_some() => {}
        created => created?,
    }
    match runtime.start(name).await {
        Err(error) if error.is_connection_lost() => runtime.start(name).await?,
        started => started?,
    }
    if has_variables {
        variables::send(dir, &executor.environment, runtime, name).await?;
    }
    Ok(())
}

/// Returns the container's name and the body of its request.
fn manifest(submission: &Submission) -> Option<(String, Value)> {
    let Payload::Manifests(manifests) = &submission.payload else {
        return None;
    };
    let manifest = manifests.manifests.first()?;
    Some((manifest.get("name")?.as_str()?.to_owned(), manifest.get("create")?.clone()))
}

/// Returns the network that the settings name.
fn network(executor: &DockerExecutor) -> Option<&str> {
    let network = executor.config.network.as_deref()?;
    let is_mode = MODES.contains(&network) || network.contains(':');
    (!is_mode).then_some(network)
}

/// Returns the seconds in the script's text, for messages.
fn exit_timeout_s(submission: &Submission) -> Option<u64> {
    let script = submission.files.get(std::path::Path::new(super::script::SCRIPT_FILE))?;
    let line = script.lines().find(|line| line.starts_with("settle="))?;
    line.rsplit_once("exit_timeout=")?.1.parse().ok().filter(|seconds| *seconds > 0)
}
