//! One list and one watch of all jobs of neva-run in a namespace, shared by all watches of an executor.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    KubernetesExecutor,
    names::{MANAGED_BY, MANAGER},
    refusal,
    store::{Change, Store, Trouble, View},
};
use crate::error::ExecutorError;

/// Pauses after errors.
const PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Time for the first list.
const FIRST_LIST: Duration = Duration::from_secs(60);

/// Jobs and pods as the API server reports them.
pub(super) struct Shared {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    task: Mutex<Option<AbortHandle>>,
}

impl Shared {
    /// Starts the watch.
    pub(super) fn start(executor: &KubernetesExecutor, namespace: &str) -> std::sync::Arc<Self> {
        let shared = std::sync::Arc::new(Self {
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            task: Mutex::default(),
        });
        // The task keeps nothing alive: it ends with the last watch.
        let (weak, executor, namespace) = (std::sync::Arc::downgrade(&shared), executor.clone(), namespace.to_owned());
        let task = tokio::spawn(async move {
            let mut pause = PAUSE;
            loop {
                let ended = run(&executor, &namespace, &weak, &mut pause).await;
                let (Some(shared), Some(trouble)) = (weak.upgrade(), ended) else {
                    return;
                };
                shared.change(|store| store.trouble = Some(trouble));
                drop(shared);
                executor.forget().await;
                sleep(pause).await;
                pause = (2 * pause).min(MAX_PAUSE);
            }
        });
        *shared.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        shared
    }

    /// Returns a receiver that is notified of each change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Returns what is known of a job.
    pub(super) fn view(&self, uid: &str) -> View {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).view(uid)
    }

    /// Returns the pods of a job, also while the connection is lost.
    pub(super) fn pods(&self, uid: &str) -> Vec<Pod> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).pods(uid)
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        change(&mut self.store.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Watches until an error; `None` if nobody needs the watch any more.
async fn run(executor: &KubernetesExecutor, namespace: &str, shared: &std::sync::Weak<Shared>, pause: &mut Duration) -> Option<Trouble> {
    let cluster = match executor.cluster_in(namespace).await {
        Ok(cluster) => cluster,
        Err(error) => return Some(Trouble::new(&error)),
    };
    let config = || watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let jobs = watcher(cluster.api::<Job>(), config()).map(|event| event.map(|event| Change::Job(Box::new(event))));
    let pods = watcher(cluster.api::<Pod>(), config()).map(|event| event.map(|event| Change::Pod(Box::new(event))));
    let mut events = Box::pin(stream::select(jobs, pods));
    // Lists of this connection; the store may have those of an earlier one.
    let mut listed = (false, false);
    loop {
        let is_listed = listed == (true, true);
        let next = match is_listed {
            true => events.next().await,
            false => match timeout(FIRST_LIST, events.next()).await {
                Ok(next) => next,
                Err(_) => return Some(Trouble::new(&cluster.silence(FIRST_LIST))),
            },
        };
        let change = match next? {
            Ok(change) => change,
            Err(error) => return Some(Trouble::new(&failed(&cluster.place, error))),
        };
        match &change {
            Change::Job(event) => listed.0 |= matches!(**event, Event::InitDone),
            Change::Pod(event) => listed.1 |= matches!(**event, Event::InitDone),
        }
        let shared = shared.upgrade()?;
        shared.change(|store| {
            store.apply(change);
            if listed == (true, true) {
                store.trouble = None;
                *pause = PAUSE;
            }
        });
    }
}

/// Returns the error of a watch as that of a request.
fn failed(place: &str, error: watcher::Error) -> ExecutorError {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            refusal::error(place, error)
        }
        watcher::Error::WatchError(status) => refusal::error(place, kube::Error::Api(status)),
        error => ExecutorError::Connection {
            place: place.to_owned(),
            source: std::io::Error::other(refusal::words(&error)),
        },
    }
}
