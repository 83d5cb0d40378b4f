//! Jobs and pods as the API server reported them last.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::runtime::watcher::Event;

use super::query::CONTROLLER_UID;
use crate::error::ExecutorError;

/// Jobs and pods of a namespace.
#[derive(Default)]
pub(super) struct Store {
    jobs: BTreeMap<String, Job>,
    /// By the uid of their Job, then by name.
    pods: BTreeMap<String, BTreeMap<String, Pod>>,
    /// What was listed once.
    listed: (bool, bool),
    /// Why nothing is known at present.
    pub(super) trouble: Option<Trouble>,
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
    Lost(Trouble),
    /// The job does not exist.
    Gone,
    /// The Job and its pods.
    Known(Box<Job>, Vec<Pod>),
}

/// Why the API server says nothing of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What is wrong, and what to do.
    pub(super) words: String,
    /// True if the API server answers and refuses: only the user can change that.
    pub(super) is_refusal: bool,
}

impl Trouble {
    /// Returns the trouble of a request that failed.
    pub(super) fn new(error: &ExecutorError) -> Self {
        Self {
            words: match error.help() {
                Some(help) => format!("{}; {help}", error.reason()),
                None => error.reason(),
            },
            is_refusal: !error.is_connection_lost(),
        }
    }
}

/// A change that a watch reported.
pub(super) enum Change {
    Job(Box<Event<Job>>),
    Pod(Box<Event<Pod>>),
}

impl Store {
    /// Returns what is known of a job.
    pub(super) fn view(&self, uid: &str) -> View {
        if let Some(trouble) = &self.trouble {
            return View::Lost(trouble.clone());
        }
        match self.jobs.get(uid) {
            _ if self.listed != (true, true) => View::Unknown,
            None => View::Gone,
            Some(job) => View::Known(Box::new(job.clone()), self.pods(uid)),
        }
    }

    /// Returns the pods of a job, also while the connection is lost.
    pub(super) fn pods(&self, uid: &str) -> Vec<Pod> {
        self.pods.get(uid).map(|pods| pods.values().cloned().collect()).unwrap_or_default()
    }

    /// Records a change.
    pub(super) fn apply(&mut self, change: Change) {
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
