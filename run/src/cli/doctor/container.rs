//! Checks of a container runtime: socket, image, GPU runtime, the rank program and its libtorch in the image.

use neva_executors::{
    DockerExecutor, ExecutorError,
    container::{RuntimeVersion, SHELL},
};
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::{
    checks::{Check, Checks},
    machine::libtorch,
};
use crate::{error::RunError, program::RankVersion};

/// Time for a container to print the version of the rank program: loading libtorch from a cold disk is slow.
const CONTAINER: Duration = Duration::from_secs(90);

/// Runs the checks; the first that fails ends them.
pub(super) async fn check(executor: &DockerExecutor) -> Checks {
    let mut checks = Checks::default();
    let version = match executor.runtime().version().await {
        Ok(version) => version,
        Err(error) => return Checks::from_iter([missing("socket", error)]),
    };
    let detail = format!(
        "{} {}, API {} at {}",
        version.name,
        version.version,
        version.api,
        executor.socket.display()
    );
    checks.ok("socket", detail);
    checks.extend([gpu_runtime(executor, &version)]);
    match image(executor).await {
        Ok(detail) => checks.ok("image", detail),
        Err(error) => {
            checks.extend([missing("image", error)]);
            return checks;
        }
    }
    checks.extend(rank_program(executor).await);
    checks
}

fn missing(name: &'static str, error: ExecutorError) -> Check {
    Check::missing(name, &RunError::from(error))
}

/// Reports the runtime for GPUs. One that is missing is a fault only if the executor requests GPUs.
fn gpu_runtime(executor: &DockerExecutor, version: &RuntimeVersion) -> Check {
    const NAME: &str = "gpus";
    let named = executor.config.runtime.as_deref();
    let has = |name: &str| version.runtimes.iter().any(|runtime| runtime == name);
    let wants_gpus = executor.config.num_gpus.is_some_and(|count| count != 0);
    let list = version.runtimes.join(", ");
    if let Some(name) = named.filter(|name| !has(name)) {
        return Check {
            ok: false,
            help: Some("install the NVIDIA Container Toolkit, or name one of these runtimes".to_owned()),
            ..Check::ok(NAME, format!("there is no runtime `{name}`; there are {list}"))
        };
    }
    if has("nvidia") {
        return Check::ok(NAME, "nvidia".to_owned());
    }
    Check {
        ok: !wants_gpus,
        help: wants_gpus.then(|| "install the NVIDIA Container Toolkit: `nvidia-ctk runtime configure --runtime=docker`".to_owned()),
        ..Check::ok(NAME, format!("none: ranks compute on the CPU ({list})"))
    }
}

/// Finds the image, or pulls it.
async fn image(executor: &DockerExecutor) -> Result<String, ExecutorError> {
    let image = &executor.config.container_image;
    if executor.runtime().has_image(image).await? {
        return Ok(format!("{image} is on this machine"));
    }
    executor.runtime().pull(image).await?;
    Ok(format!("{image} was pulled"))
}

/// Runs `neva-rank version` in the image.
async fn rank_program(executor: &DockerExecutor) -> Vec<Check> {
    const NAME: &str = "neva-rank";
    let name = format!("neva-run-doctor-{}", std::process::id());
    let run = async {
        let runtime = executor.runtime();
        runtime.create(&name, &request(executor)?).await?;
        runtime.start(&name).await?;
        runtime.output(&name).await
    };
    let ended = timeout(CONTAINER, run).await;
    // A container that was not created cannot be removed.
    let _ = executor.runtime().remove(&name).await;
    let failed = |detail: String| Check {
        ok: false,
        help: Some(
            "use an image with neva-rank (`make image`), or mount one: `volumes: [/opt/neva-run]` and `rank_program: \
             /opt/neva-run/bin/neva-rank`"
                .to_owned(),
        ),
        ..Check::ok(NAME, detail)
    };
    match ended {
        Err(_) => vec![failed(format!("the container did not end within {} s", CONTAINER.as_secs()))],
        Ok(Err(error)) => vec![missing(NAME, error)],
        Ok(Ok((code, output))) => match version(&output) {
            Some(version) => vec![
                Check::ok(NAME, format!("{} in the image", version.version)),
                libtorch(&version),
                Check::ok(
                    "gpu",
                    if version.cuda {
                        "usable".to_owned()
                    } else {
                        "none in the container".to_owned()
                    },
                ),
            ],
            None => {
                let last = output.lines().last().unwrap_or("no output");
                vec![failed(format!("it ended with exit code {code}: {last}"))]
            }
        },
    }
}

/// Returns the request of a container that prints the version, with the mounts, GPUs and limits of a job.
fn request(executor: &DockerExecutor) -> Result<serde_json::Value, ExecutorError> {
    let mut body = executor.probe()?;
    let program = executor.config.rank_program.clone();
    let program = program.unwrap_or_else(|| executor.program.to_string_lossy().into_owned());
    body["Entrypoint"] = json!([SHELL]);
    body["Cmd"] = match executor.config.library_path() {
        Some(folders) => {
            let script = format!("export {}=\"$1\"; exec \"$0\" version", neva_schemas::env::LD_LIBRARY_PATH);
            json!(["-c", script, program, folders])
        }
        None => json!(["-c", "exec \"$0\" version", program]),
    };
    Ok(body)
}

/// Parses the line of JSON in the output.
fn version(output: &str) -> Option<RankVersion> {
    output.lines().find_map(|line| serde_json::from_str(line).ok())
}
