//! A container as the runtime describes it.

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};

use super::request::FOLDER_LABEL;

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

impl From<ContainerInspectResponse> for Container {
    fn from(found: ContainerInspectResponse) -> Self {
        let state = found.state.unwrap_or_default();
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Self {
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
        }
    }
}
