//! Client of the Docker API, which Podman has, too.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{ContainerCreateBody, ContainerStateStatusEnum, NetworkCreateRequest, SystemInfo},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
        LogsOptionsBuilder, RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::sleep;

use super::request::FOLDER_LABEL;
use crate::{container_error::ContainerError, error::ExecutorError};

/// Seconds that a request may take. A busy runtime takes long to create a container of a large image.
const REQUEST_S: u64 = 120;

/// Number of questions for a state that has a name, and the pause between two.
const STATE_TRIES: u32 = 40;
const STATE_PAUSE: Duration = Duration::from_millis(50);

/// Sockets of Docker and Podman, in the order in which they are tried.
const SOCKETS: &[&str] = &["/var/run/docker.sock", "/run/podman/podman.sock"];

/// Returns the socket of the API: the one that `host` names, else the first that exists of Docker's, Podman's, and those in
/// `runtime_dir` of a user without root.
pub fn default_socket(host: Option<&str>, runtime_dir: Option<&Path>) -> PathBuf {
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        return host.strip_prefix("unix://").unwrap_or(host).into();
    }
    let own = ["docker.sock", "podman/podman.sock"];
    let own = runtime_dir.into_iter().flat_map(|dir| own.map(|socket| dir.join(socket)));
    let mut all = own.chain(SOCKETS.iter().map(PathBuf::from));
    all.find(|socket| socket.exists()).unwrap_or_else(|| SOCKETS[0].into())
}

/// A container runtime on this machine.
#[derive(Debug, Clone)]
pub struct Runtime {
    socket: PathBuf,
}

/// Version of a container runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// Name of the runtime, as `Podman Engine`.
    pub name: String,
    /// Version of the runtime.
    pub version: String,
    /// Version of the API.
    pub api: String,
    /// Names of the OCI runtimes.
    pub runtimes: Vec<String>,
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Whether it runs.
    pub state: ContainerState,
    /// Exit code of its first process.
    pub exit_code: i64,
    /// A process was killed because the container reached its memory limit.
    pub is_out_of_memory: bool,
    /// Words of the runtime on why it could not start.
    pub error: String,
    /// Folder of its job.
    pub folder: String,
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// It has not started.
    Created,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It has ended.
    Ended,
}

impl Runtime {
    /// Creates a client of the API at `socket`. It connects with each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Returns the API's address.
    pub fn place(&self) -> String {
        format!("the Docker API at {}", self.socket.display())
    }

    /// Returns the error of a failed request, and that of a lost connection for one that did not arrive.
    fn failed(&self, action: &'static str, error: Error) -> ExecutorError {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let words = words(&message);
                match status_code {
                    400 | 404 | 409 => ContainerError::Refused { help: help(&words), words },
                    _ if help(&words).is_some() => ContainerError::Refused { help: help(&words), words },
                    _ => ContainerError::Failed { action, words },
                }
                .into()
            }
            Error::DockerStreamError { error } => ContainerError::Failed { action, words: error }.into(),
            Error::JsonDataError { message, .. } => ContainerError::Failed { action, words: message }.into(),
            Error::SocketNotFoundError(_) => self.lost(io::ErrorKind::NotFound.into()),
            Error::RequestTimeoutError => self.lost(io::ErrorKind::TimedOut.into()),
            Error::IOError { err } => self.lost(err),
            other => {
                let mut causes = vec![other.to_string()];
                let mut cause = std::error::Error::source(&other);
                while let Some(next) = cause {
                    causes.push(next.to_string());
                    cause = next.source();
                }
                causes.dedup();
                self.lost(io::Error::other(causes.join(": ")))
            }
        }
    }

    fn lost(&self, source: io::Error) -> ExecutorError {
        ExecutorError::Connection {
            place: self.place(),
            source,
        }
    }

    /// Connects, with the newest version of the API that both sides have.
    async fn connect(&self) -> Result<Docker, ExecutorError> {
        let failed = |error| self.failed("answer", error);
        let socket = self.socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&socket, REQUEST_S, API_DEFAULT_VERSION).map_err(failed)?;
        docker.negotiate_version().await.map_err(failed)
    }

    /// Returns the runtime's version.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn version(&self) -> Result<RuntimeVersion, ExecutorError> {
        let failed = |error| self.failed("answer", error);
        let docker = self.connect().await?;
        let version = docker.version().await.map_err(failed)?;
        let info = match docker.info().await {
            Ok(info) => info,
            // A runtime may write a field of it in a form of its own.
            Err(Error::JsonDataError { .. }) => SystemInfo::default(),
            Err(error) => return Err(failed(error)),
        };
        let engine = version.components.iter().flatten().next();
        Ok(RuntimeVersion {
            name: engine.map_or_else(|| "Docker".to_owned(), |engine| engine.name.clone()),
            version: version.version.unwrap_or_default(),
            api: version.api_version.unwrap_or_default(),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
        })
    }

    /// Returns whether an image is on this machine.
    ///
    /// # Errors
    /// The runtime cannot be reached.
    pub async fn has_image(&self, image: &str) -> Result<bool, ExecutorError> {
        match self.connect().await?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
            Err(error) => Err(self.failed("look for the image", error)),
        }
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// No registry has it, or it cannot be reached.
    pub async fn pull(&self, image: &str) -> Result<(), ExecutorError> {
        let docker = self.connect().await?;
        let options = CreateImageOptionsBuilder::default().from_image(image).build();
        let mut lines = pin!(docker.create_image(Some(options), None, None));
        let no_image = |words: String| ContainerError::NoImage {
            image: image.to_owned(),
            words,
        };
        while let Some(line) = lines.next().await {
            match line {
                Ok(line) => {
                    if let Some(error) = line.error_detail.and_then(|error| error.message) {
                        return Err(no_image(words(&error)).into());
                    }
                }
                Err(Error::DockerResponseServerError { message, .. }) => return Err(no_image(words(&message)).into()),
                Err(Error::DockerStreamError { error }) => return Err(no_image(words(&error)).into()),
                Err(error) => return Err(self.failed("pull the image", error)),
            }
        }
        if self.has_image(image).await? {
            Ok(())
        } else {
            Err(no_image("the runtime gave no reason".to_owned()).into())
        }
    }

    /// Creates the network `name` if it is missing.
    pub(super) async fn ensure_network(&self, name: &str) -> Result<(), ExecutorError> {
        let docker = self.connect().await?;
        match docker.inspect_network(name, None).await {
            Ok(_) => Ok(()),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                let request = NetworkCreateRequest {
                    name: name.to_owned(),
                    ..NetworkCreateRequest::default()
                };
                let created = docker.create_network(request).await;
                created.map(drop).map_err(|error| self.failed("create the network", error))
            }
            Err(error) => Err(self.failed("look for the network", error)),
        }
    }

    /// Creates a container.
    ///
    /// # Errors
    /// The runtime refuses it, or cannot be reached.
    pub async fn create(&self, name: &str, body: &Value) -> Result<(), ExecutorError> {
        let body: ContainerCreateBody = serde_json::from_value(body.clone())?;
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = self.connect().await?.create_container(Some(options), body).await;
        let response = created.map_err(|error| self.failed("create the container", error))?;
        for warning in response.warnings {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Starts a container; one that runs is left alone.
    ///
    /// # Errors
    /// The runtime cannot start it, or cannot be reached.
    pub async fn start(&self, name: &str) -> Result<(), ExecutorError> {
        let started = self.connect().await?.start_container(name, None).await;
        started.map_err(|error| self.failed("start the container", error))
    }

    /// Returns the state of a container; `None` if it does not exist.
    ///
    /// # Errors
    /// The runtime cannot be reached.
    pub async fn inspect(&self, name: &str) -> Result<Option<Container>, ExecutorError> {
        let docker = self.connect().await?;
        let mut tries = 0;
        let found = loop {
            match docker.inspect_container(name, None).await {
                Ok(found) => break found,
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
                // Podman has states between others for which the API has no name.
                Err(Error::JsonDataError { .. }) if tries < STATE_TRIES => tries += 1,
                Err(error) => return Err(self.failed("look for the container", error)),
            }
            sleep(STATE_PAUSE).await;
        };
        let state = found.state.unwrap_or_default();
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(Some(Container {
            state: match state.status {
                Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
                Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::RESTARTING) => ContainerState::Running,
                Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING) => {
                    ContainerState::Ended
                }
                // Podman has states that Docker lacks; all of them precede the start, or follow the end.
                _ if state.running == Some(true) => ContainerState::Running,
                _ if state.finished_at.is_some_and(|time| !time.starts_with("0001-")) => ContainerState::Ended,
                _ => ContainerState::Created,
            },
            exit_code: state.exit_code.unwrap_or_default(),
            is_out_of_memory: state.oom_killed.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
            folder: labels.get(FOLDER_LABEL).cloned().unwrap_or_default(),
        }))
    }

    /// Signals the first process of a container; one that has ended is left alone.
    pub(super) async fn kill(&self, name: &str, signal: &str) -> Result<(), ExecutorError> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        match self.connect().await?.kill_container(name, Some(options)).await {
            // It does not exist, or does not run.
            Ok(())
            | Err(Error::DockerResponseServerError {
                status_code: 404 | 409, ..
            }) => Ok(()),
            Err(Error::DockerResponseServerError { message, .. })
                if message.contains("not running") || message.contains("state improper") =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed("signal the container", error)),
        }
    }

    /// Removes a container with its processes.
    ///
    /// # Errors
    /// The runtime cannot remove it, or cannot be reached.
    pub async fn remove(&self, name: &str) -> Result<(), ExecutorError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.connect().await?.remove_container(name, Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.failed("remove the container", error)),
        }
    }

    /// Removes the containers of jobs whose folders are in `folder`.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub async fn remove_below(&self, folder: &str) -> Result<(), ExecutorError> {
        let filters = [("label".to_owned(), vec![FOLDER_LABEL.to_owned()])].into_iter().collect();
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.connect().await?.list_containers(Some(options)).await;
        for container in list.map_err(|error| self.failed("list containers", error))? {
            let labels = container.labels.unwrap_or_default();
            let is_below = labels.get(FOLDER_LABEL).is_some_and(|job| Path::new(job).starts_with(folder));
            if let Some(id) = container.id.filter(|_| is_below) {
                self.remove(&id).await?;
            }
        }
        Ok(())
    }

    /// Waits for the end of a container, and returns its exit code and its output.
    ///
    /// # Errors
    /// The runtime cannot be reached.
    pub async fn output(&self, name: &str) -> Result<(i64, String), ExecutorError> {
        let docker = self.connect().await?;
        let mut ends = pin!(docker.wait_container(name, Some(WaitContainerOptionsBuilder::default().build())));
        let code = match ends.next().await {
            Some(Ok(end)) => end.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(self.failed("wait for the container", error)),
            None => 0,
        };
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let mut lines = pin!(docker.logs(name, Some(options)));
        let mut text = String::new();
        while let Some(line) = lines.next().await {
            text += &line.map_err(|error| self.failed("read the container's output", error))?.to_string();
        }
        Ok((code, text))
    }
}

/// Returns a runtime's words as one line.
fn words(message: &str) -> String {
    // Podman answers with an object in places where Docker answers with a text.
    let cause = serde_json::from_str::<Value>(message)
        .ok()
        .and_then(|value| Some(value.get("message").or_else(|| value.get("cause"))?.as_str()?.to_owned()));
    let text = cause.unwrap_or_else(|| message.to_owned());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns what to type instead, from a runtime's words.
fn help(words: &str) -> Option<String> {
    let lower = words.to_ascii_lowercase();
    let any = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    Some(
        if any(&["could not select device driver", "nvidia-container-cli", "unresolvable cdi devices"]) {
            "install the NVIDIA Container Toolkit and run `nvidia-ctk runtime configure --runtime=docker`, or add \
             `--set executor.num_gpus=0`"
        } else if any(&["unknown or invalid runtime name", "unknown runtime", "runtime not found"]) {
            "`docker info` lists the runtimes; remove `runtime` from the executor, or name one of them"
        } else if any(&["/bin/sh"]) && any(&["no such file", "not found"]) {
            "the image has no shell `/bin/sh`, which starts the ranks: use another image"
        } else if any(&["network"]) && any(&["not found", "unable to find", "netavark", "cni"]) {
            "add `--set executor.network=host`, or name another network"
        } else if any(&["no such file or directory", "bind source path does not exist"]) {
            "a folder of `executor.volumes` does not exist on this machine"
        } else if any(&["rlimit", "operation not permitted"]) {
            "the runtime may not raise a limit: set lower `executor.ulimits`, or change the runtime's `default_ulimits`"
        } else if any(&["unable to find user", "no matching entries in passwd"]) {
            "the image does not know the user: write numbers, as `--set executor.user=1000:1000`"
        } else {
            return None;
        }
        .to_owned(),
    )
}
