//! The connection to a cluster.

use std::{fmt, io, sync::Arc, time::Duration};

use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use neva_schemas::KubernetesExecutorConfig;
use tokio::{sync::Mutex, time::timeout};

use super::refusal;
use crate::{error::ExecutorError, kubernetes_error::KubernetesError};

/// Time in which a connection that says nothing is taken for lost. API servers send a bookmark in each minute of a watch.
const SILENCE: Duration = Duration::from_secs(300);

/// Makes connections from the settings, and keeps one for the requests of an executor.
#[derive(Clone)]
pub(super) struct Connector {
    /// A client of the caller.
    given: Option<Client>,
    kept: Arc<Mutex<Option<Cluster>>>,
}

/// A cluster, and the namespace of the jobs.
#[derive(Clone)]
pub struct Cluster {
    /// Client of the API server.
    pub client: Client,
    /// Namespace of the jobs.
    pub namespace: String,
    /// Address of the API server, for messages.
    pub place: String,
    /// Time within which it has to answer a request.
    pub timeout: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({}, {})", self.place, self.namespace)
    }
}

impl Connector {
    /// Creates a connector for a client of the caller, or for the settings.
    pub(super) fn new(given: Option<Client>) -> Self {
        Self {
            given,
            kept: Arc::default(),
        }
    }

    /// Returns the connection, a new one if there is none.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub(super) async fn connect(&self, config: &KubernetesExecutorConfig) -> Result<Cluster, ExecutorError> {
        let mut kept = self.kept.lock().await;
        if let Some(cluster) = &*kept {
            return Ok(cluster.clone());
        }
        let cluster = match &self.given {
            Some(client) => Cluster::new(config, client.clone(), client.default_namespace(), "the API server".to_owned()),
            None => {
                let found = settings(config).await.map_err(|error| KubernetesError::Config {
                    words: refusal::words(&*error),
                })?;
                let place = found.cluster_url.authority().map_or_else(String::new, ToString::to_string);
                let namespace = found.default_namespace.clone();
                let client = Client::try_from(found).map_err(|error| KubernetesError::Config {
                    words: refusal::words(&error),
                })?;
                Cluster::new(config, client, &namespace, format!("the API server {place}"))
            }
        };
        *kept = Some(cluster.clone());
        Ok(cluster)
    }

    /// Forgets the connection: the next request reads the kubeconfig, and a renewed token in it, again.
    pub(super) async fn forget(&self) {
        *self.kept.lock().await = None;
    }
}

/// Reads the kubeconfig, or the service account of the pod that this process runs in.
async fn settings(config: &KubernetesExecutorConfig) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let options = KubeConfigOptions {
        context: config.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut found = match (&config.kubeconfig, &config.context) {
        (Some(file), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
        (None, Some(_)) => Config::from_kubeconfig(&options).await?,
        (None, None) => Config::infer().await?,
    };
    found.read_timeout = Some(SILENCE);
    // Repeated requests are the business of their callers.
    found.default_retry = false;
    Ok(found)
}

impl Cluster {
    fn new(config: &KubernetesExecutorConfig, client: Client, namespace: &str, place: String) -> Self {
        Self {
            namespace: config.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
            client,
            place,
            timeout: Duration::from_secs(config.request_timeout_s.max(1)),
        }
    }

    /// Returns the requests for objects of a type in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits for the answer to a request, within the deadline.
    ///
    /// # Errors
    /// The API server cannot be reached, or refuses the request.
    pub async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, ExecutorError> {
        match timeout(self.timeout, request).await {
            Ok(answer) => answer.map_err(|error| refusal::error(&self.place, error)),
            Err(_) => Err(self.silence(self.timeout)),
        }
    }

    /// Returns the error of an API server that did not answer in time.
    pub(super) fn silence(&self, time: Duration) -> ExecutorError {
        ExecutorError::Connection {
            place: self.place.clone(),
            source: io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", time.as_secs())),
        }
    }
}
