//! What jobs on Kubernetes cost the launcher: a table of measured values and their bounds. For the status of many jobs the API
//! server is a function that answers at once; for output it is a process on loopback.
//!
//!     cargo bench --workspace --bench kubernetes
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints a table, stops where it cannot measure, and its server waits between two lines"
)]

mod api_server;
#[path = "../table/mod.rs"]
mod table;
#[path = "../watched/mod.rs"]
mod watched;

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use kube::{Client, Config, client::Body};
use neva_executors::{Executor as _, JobEvent, JobHandle, JobState, KubernetesExecutor, WatchFrom};
use neva_recipes::neva_tiny;
use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, PLAN_FORMAT, RecipeArgs, Run};
use serde_json::{Value, json};

use self::{
    api_server::{ApiServer, serve},
    table::print_table,
    watched::follow,
};

const NODES: u32 = 128;
const GPUS: u32 = 8;
const JOBS: usize = 500;
const PODS: usize = 2;
/// Pods of one rank each whose output is followed, and for how long.
const FOLLOWED: usize = 64;
const WATCHED: Duration = Duration::from_secs(20);

fn config() -> KubernetesExecutorConfig {
    serde_json::from_value(json!({
        "image": "registry.example.org/neva:1",
        "namespace": "training",
        "volumes": [{"mount_path": "/runs", "claim": "runs"}],
        "one_rank_per_pod": true,
    }))
    .unwrap()
}

/// Returns the milliseconds in which the manifests of 1,024 ranks are rendered and written, the median of several.
fn render_ms() -> f64 {
    let args = RecipeArgs {
        num_nodes: NODES,
        num_gpus_per_node: GPUS,
        ..neva_tiny::default_args()
    };
    let plan = LaunchPlan {
        format: PLAN_FORMAT,
        version: "0.1.0".into(),
        name: "large".into(),
        run_dir: "/runs/large/2026-11-24_10-00-00".into(),
        num_nodes: NODES,
        ranks_per_node: GPUS,
        env: Default::default(),
        run: Run::new("neva_tiny", args.clone(), neva_tiny::finetune_recipe(args)),
    };
    let executor = KubernetesExecutor::new(config());
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            let started = Instant::now();
            let submission = executor.render(&plan).unwrap();
            let neva_executors::Payload::Manifests(manifests) = &submission.payload else {
                unreachable!("Kubernetes takes manifests");
            };
            assert!(manifests.yaml().unwrap().contains("completions: 1024\n"));
            started.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn uid(job: usize) -> String {
    format!("00000000-0000-0000-0000-{job:012}")
}

fn job(number: usize, pods: usize, ranks_per_pod: u32, has_succeeded: bool) -> Value {
    let conditions = match has_succeeded {
        true => json!([{"type": "Complete", "status": "True"}]),
        false => json!([]),
    };
    json!({
        "metadata": {
            "name": format!("job-{number}"),
            "uid": uid(number),
            "annotations": {"neva-run/ranks-per-pod": ranks_per_pod.to_string()},
        },
        "spec": {"completions": pods, "template": {"spec": {"containers": []}}},
        "status": {"conditions": conditions, "active": pods},
    })
}

/// Returns a pod of a job that runs.
fn pod(number: usize, job: usize, index: usize) -> Value {
    json!({
        "metadata": {
            "name": format!("pod-{number}"),
            "uid": uid(number),
            "creationTimestamp": "2026-11-24T10:00:00Z",
            "labels": {
                "batch.kubernetes.io/controller-uid": uid(job),
                "batch.kubernetes.io/job-completion-index": index.to_string(),
            },
        },
        "spec": {"nodeName": format!("node-{}", number % 64), "containers": []},
        "status": {
            "phase": "Running",
            "containerStatuses": [{
                "name": "ranks", "image": "x", "imageID": "x", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-11-24T10:00:01Z"}},
            }],
        },
    })
}

fn handle(job: usize) -> JobHandle {
    JobHandle(format!("kubernetes://training/job-{job}/{}/runs/{job}", uid(job)))
}

/// Returns an executor whose API server has many jobs, of which those that `has_succeeded` selects have ended, and the counter of
/// its requests. A watch of it reports nothing after its list.
fn executor_of_many(has_succeeded: fn(usize) -> bool) -> (KubernetesExecutor, Arc<AtomicUsize>) {
    let list = |kind: &str, items: Vec<Value>| {
        json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}).to_string()
    };
    let jobs = (0..JOBS).map(|number| job(number, PODS, 8, has_succeeded(number))).collect();
    let pods = (0..JOBS * PODS).map(|number| pod(number, number / PODS, number % PODS)).collect();
    let (jobs, pods) = (list("JobList", jobs), list("PodList", pods));
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let text = if request.uri().path().ends_with("/jobs") { &jobs } else { &pods };
        let response = http::Response::new(Body::from(text.clone().into_bytes()));
        async move {
            if is_watch {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    (KubernetesExecutor::new(config()).client(Client::new(service, "training")), requests)
}

/// Returns the number of requests and the milliseconds for the status of all jobs.
async fn status_of_many() -> (usize, f64) {
    let (executor, requests) = executor_of_many(|number| number % 5 == 0);
    let handles: Vec<_> = (0..JOBS).map(handle).collect();
    let started = Instant::now();
    let statuses = executor.statuses(&handles).await;
    let elapsed = started.elapsed().as_secs_f64() * 1000.0;
    let of = |state: &JobState| statuses.iter().filter(|status| status.as_ref().unwrap().state == *state).count();
    assert_eq!((of(&JobState::Running), of(&JobState::Succeeded)), (JOBS * 4 / 5, JOBS / 5));
    (requests.load(Ordering::Relaxed), elapsed)
}

/// Returns the number of requests with which all jobs are watched until each has reported its state.
async fn watch_many() -> usize {
    let (executor, requests) = executor_of_many(|_| false);
    let handles: Vec<_> = (0..JOBS).map(handle).collect();
    let mut watches: Vec<_> = handles.iter().map(|job| executor.watch(job, WatchFrom::none())).collect();
    for events in &mut watches {
        let Some(Ok(JobEvent::Status(status))) = events.next().await else {
            panic!("the first event is the state");
        };
        assert_eq!(status.state, JobState::Running);
    }
    requests.load(Ordering::Relaxed)
}

/// Returns the share of a core that following the output of all pods takes, and the bytes that arrived.
async fn follow_pods() -> (f64, u64) {
    let server = ApiServer::start();
    let client = Client::try_from(Config::new(server.url.parse().unwrap())).unwrap();
    let executor = KubernetesExecutor::new(config()).client(client);
    follow(&executor, &handle(0), FOLLOWED as u32, WATCHED).await
}

fn main() -> ExitCode {
    let followed: Vec<_> = (0..FOLLOWED).map(|number| pod(number, 0, number)).collect();
    if serve(&[job(0, FOLLOWED, 1, false)], &followed) {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (requests, status_ms) = runtime.block_on(status_of_many());
    let watch_requests = runtime.block_on(watch_many());
    let (share, bytes) = runtime.block_on(follow_pods());
    // Two lines a second of each.
    let least = (FOLLOWED as u64) * WATCHED.as_secs() * 60;
    assert!(bytes > least, "{bytes} bytes of output arrived");
    print_table([
        ("ms to render the manifests of 1,024 ranks as YAML".to_owned(), render_ms(), 100.0),
        (
            "requests for the status of 500 jobs with 1,000 pods".to_owned(),
            requests as f64,
            2.0,
        ),
        ("ms of the launcher for it".to_owned(), status_ms, 1000.0),
        // A list and a watch, of Jobs and of pods.
        ("requests to watch 500 jobs".to_owned(), watch_requests as f64, 4.0),
        (
            format!("% of a core to follow {FOLLOWED} pods ({bytes} bytes in {} s)", WATCHED.as_secs()),
            100.0 * share,
            5.0,
        ),
    ])
}
