//! Client of the Docker API, which Podman has, too.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    models::{ContainerCreateBody, NetworkCreateRequest, SystemInfo},
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
        RemoveContainerOptionsBuilder, WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::sleep;

use super::{inspect::Container, refusal, request::FOLDER_LABEL};
use crate::error::ExecutorError;

/// Seconds that a request may take. A busy runtime takes long to create a container of a large image.
const REQUEST_S: u64 = 120;

/// Number of questions for a state that has a name, and the pause between two.
const STATE_TRIES: u32 = 40;
const STATE_PAUSE: Duration = Duration::from_millis(50);

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

impl Runtime {
    /// Creates a client of the API at `socket`. It connects with each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Returns the API's address.
    pub fn place(&self) -> String {
        format!("the Docker API at {}", self.socket.display())
    }

    pub(super) fn failed(&self, action: &'static str, error: Error) -> ExecutorError {
        refusal::error(&self.place(), action, error)
    }

    /// Connects, with the newest version of the API that both sides have.
    pub(super) async fn connect(&self) -> Result<Docker, ExecutorError> {
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
        match with_named_states(|| docker.inspect_container(name, None)).await {
            Ok(found) => Ok(Some(found.into())),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed("look for the container", error)),
        }
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
        let docker = self.connect().await?;
        let list = with_named_states(|| docker.list_containers(Some(options.clone()))).await;
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

/// Asks for the state of containers until all of them have names. Podman has states between others, as `stopped`, for which
/// the API has none.
async fn with_named_states<T, F: Future<Output = Result<T, Error>>>(question: impl Fn() -> F) -> Result<T, Error> {
    for _ in 0..STATE_TRIES {
        match question().await {
            Err(Error::JsonDataError { .. }) => sleep(STATE_PAUSE).await,
            answer => return answer,
        }
    }
    question().await
}
