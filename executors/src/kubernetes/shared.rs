//! One list and one watch of all jobs of neva-run in a namespace, shared by all watches of an executor.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    query::CONTROLLER_UID,
    refusal,
};

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

#[derive(Default)]
struct Store {
    jobs: BTreeMap<String, Job>,
    /// By the uid of their Job, then by name.
    pods: BTreeMap<String, BTreeMap<String, Pod>>,
    /// What was listed once.
    listed: (bool, bool),
    /// Why nothing is known at present.
    trouble: Option<String>,
    /// Uids that a list has named since it began.
    listing_jobs: BTreeSet<String>,
    listing_pods: BTreeSet<(String, String)>,
}

/// What is known of a job.
#[derive(Debug, Clone)]
pub(super) enum View {
    /// The first list has not arrived.
    Unknown,
    /// The API server cannot be reached, or does not accept the credentials.
    Lost(String),
    /// The job does not exist.
    Gone,
    /// The Job and its pods.
    Known(Box<Job>, Vec<Pod>),
}

enum Change {
    Job(Box<Event<Job>>),
    Pod(Box<Event<Pod>>),
}

impl Shared {
    /// Starts the watch.
    pub(super) fn start(executor: &KubernetesExecutor) -> std::sync::Arc<Self> {
        let shared = std::sync::Arc::new(Self {
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            task: Mutex::default(),
        });
        // The task keeps nothing alive: it ends with the last watch.
        let (weak, executor) = (std::sync::Arc::downgrade(&shared), executor.clone());
        let task = tokio::spawn(async move {
            let mut pause = PAUSE;
            loop {
                let ended = run(&executor, &weak, &mut pause).await;
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
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trouble) = &store.trouble {
            return View::Lost(trouble.clone());
        }
        match store.jobs.get(uid) {
            _ if store.listed != (true, true) => View::Unknown,
            None => View::Gone,
            Some(job) => {
                let pods = store.pods.get(uid).map(|pods| pods.values().cloned().collect());
                View::Known(Box::new(job.clone()), pods.unwrap_or_default())
            }
        }
    }

    /// Returns the pods of a job, also while the connection is lost.
    pub(super) fn pods(&self, uid: &str) -> Vec<Pod> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.pods.get(uid).map(|pods| pods.values().cloned().collect()).unwrap_or_default()
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

/// Watches until an error, and returns its words; `None` if nobody needs the watch any more.
async fn run(executor: &KubernetesExecutor, shared: &std::sync::Weak<Shared>, pause: &mut Duration) -> Option<String> {
    let cluster = match executor.connect().await {
        Ok(cluster) => cluster,
        Err(error) => return Some(error.reason()),
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
                Err(_) => return Some(format!("no answer of {} within {} s", cluster.place, FIRST_LIST.as_secs())),
            },
        };
        let change = match next? {
            Ok(change) => change,
            Err(error) => return Some(trouble(&cluster.place, error)),
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

/// Returns what is wrong, and what to do.
fn trouble(place: &str, error: watcher::Error) -> String {
    let error = match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            refusal::error(place, error)
        }
        watcher::Error::WatchError(status) => refusal::error(place, kube::Error::Api(status)),
        error => return format!("no connection to {place}: {}", refusal::words(&error)),
    };
    match error.help() {
        Some(help) => format!("{}; {help}", error.reason()),
        None => error.reason(),
    }
}

impl Store {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Job(event) => self.apply_job(*event),
            Change::Pod(event) => self.apply_pod(*event),
        }
    }

    fn apply_job(&mut self, event: Event<Job>) {
        match event {
            Event::Init => self.listing_jobs.clear(),
            Event::InitApply(job) => {
                if let Some(uid) = job.metadata.uid.clone() {
                    self.listing_jobs.insert(uid.clone());
                    self.jobs.insert(uid, job);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing_jobs);
                self.jobs.retain(|uid, _| listed.contains(uid));
                self.listed.0 = true;
            }
            Event::Apply(job) => {
                if let Some(uid) = job.metadata.uid.clone() {
                    self.jobs.insert(uid, job);
                }
            }
            Event::Delete(job) => {
                if let Some(uid) = &job.metadata.uid {
                    self.jobs.remove(uid);
                    self.pods.remove(uid);
                }
            }
        }
    }

    fn apply_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listing_pods.clear(),
            Event::InitApply(pod) => {
                if let Some(key) = key(&pod) {
                    self.listing_pods.insert(key.clone());
                    self.pods.entry(key.0).or_default().insert(key.1, pod);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listing_pods);
                for (uid, pods) in &mut self.pods {
                    pods.retain(|name, _| listed.contains(&(uid.clone(), name.clone())));
                }
                self.listed.1 = true;
            }
            Event::Apply(pod) => {
                if let Some((uid, name)) = key(&pod) {
                    self.pods.entry(uid).or_default().insert(name, pod);
                }
            }
            Event::Delete(pod) => {
                if let Some((uid, name)) = key(&pod)
                    && let Some(pods) = self.pods.get_mut(&uid)
                {
                    pods.remove(&name);
                }
            }
        }
    }
}

/// Returns the uid of a pod's Job, and the pod's name.
fn key(pod: &Pod) -> Option<(String, String)> {
    let uid = pod.metadata.labels.as_ref()?.get(CONTROLLER_UID)?.clone();
    Some((uid, pod.metadata.name.clone()?))
}
