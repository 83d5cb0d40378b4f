//! Repeats a request while the API server cannot be reached.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::KubernetesExecutor;
use crate::{error::ExecutorError, executor::BoxFuture};

/// Time for which a submission waits for an API server that cannot be reached.
const LIMIT: Duration = Duration::from_secs(600);
/// Pauses between two tries.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(10);

impl KubernetesExecutor {
    /// Repeats a request of a submission until it is answered, with a new connection each time.
    pub(super) async fn repeat<'a, T>(&self, request: impl Fn() -> BoxFuture<'a, Result<T, ExecutorError>>) -> Result<T, ExecutorError> {
        let end = Instant::now() + LIMIT;
        let mut pause = PAUSE;
        loop {
            match request().await {
                Err(error) if error.is_connection_lost() && Instant::now() < end => {
                    tracing::warn!("{}; trying again", error.reason());
                    self.forget().await;
                    sleep(pause).await;
                    pause = (2 * pause).min(MAX_PAUSE);
                }
                answer => return answer,
            }
        }
    }
}
