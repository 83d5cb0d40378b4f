//! What jobs on Kubernetes cost the launcher: a table of measured values and their bounds. The API server is a function that
//! answers at once.
//!
//!     cargo bench --workspace --bench kubernetes
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints a table, and stops where it cannot measure"
)]

use std::{
    convert::Infallible,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use kube::{Client, client::Body};
use neva_executors::{Executor, JobHandle, JobState, KubernetesExecutor};
use neva_recipes::neva_tiny;
use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, PLAN_FORMAT, RecipeArgs, Run};
use serde_json::{Value, json};

const NODES: u32 = 128;
const GPUS: u32 = 8;
const JOBS: usize = 500;
const PODS: usize = 2;

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

/// Returns the Jobs of which every fifth has succeeded.
fn jobs() -> Vec<Value> {
    let job = |number: usize| {
        let conditions = match number % 5 {
            0 => json!([{"type": "Complete", "status": "True"}]),
            _ => json!([]),
        };
        json!({
            "metadata": {
                "name": format!("job-{number}"),
                "uid": uid(number),
                "annotations": {"neva-run/ranks-per-pod": "8"},
            },
            "spec": {"completions": PODS, "template": {"spec": {"containers": []}}},
            "status": {"conditions": conditions, "active": PODS},
        })
    };
    (0..JOBS).map(job).collect()
}

fn pods() -> Vec<Value> {
    let pod = |number: usize| {
        json!({
            "metadata": {
                "name": format!("pod-{number}"),
                "uid": uid(number),
                "creationTimestamp": "2026-11-24T10:00:00Z",
                "labels": {
                    "batch.kubernetes.io/controller-uid": uid(number / PODS),
                    "batch.kubernetes.io/job-completion-index": (number % PODS).to_string(),
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
    };
    (0..JOBS * PODS).map(pod).collect()
}

/// Returns the number of requests and the milliseconds for the status of all jobs.
async fn status_of_many() -> (usize, f64) {
    let requests = Arc::new(AtomicUsize::new(0));
    let list = |kind: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items}).to_string();
    let (jobs, pods) = (list("JobList", jobs()), list("PodList", pods()));
    let count = requests.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        count.fetch_add(1, Ordering::Relaxed);
        let text = if request.uri().path().ends_with("/jobs") { &jobs } else { &pods };
        let response = http::Response::new(Body::from(text.clone().into_bytes()));
        async move { Ok::<_, Infallible>(response) }
    });
    let executor = KubernetesExecutor::new(config()).client(Client::new(service, "training"));
    let handles: Vec<_> = (0..JOBS)
        .map(|job| JobHandle(format!("kubernetes://training/job-{job}/{}/runs/{job}", uid(job))))
        .collect();
    let started = Instant::now();
    let statuses = executor.statuses(&handles).await;
    let elapsed = started.elapsed().as_secs_f64() * 1000.0;
    let of = |state: &JobState| statuses.iter().filter(|status| status.as_ref().unwrap().state == *state).count();
    assert_eq!((of(&JobState::Running), of(&JobState::Succeeded)), (JOBS * 4 / 5, JOBS / 5));
    (requests.load(Ordering::Relaxed), elapsed)
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (requests, status_ms) = runtime.block_on(status_of_many());
    let rows = [
        ("ms to render the manifests of 1,024 ranks as YAML", render_ms(), 100.0),
        ("requests for the status of 500 jobs with 1,000 pods", requests as f64, 2.0),
        ("ms of the launcher for it", status_ms, 1000.0),
    ];
    let mut kept = true;
    println!("{:<60} {:>9} {:>7}", "", "measured", "bound");
    for (name, measured, bound) in rows {
        kept &= measured <= bound;
        println!("{name:<60} {measured:>9.2} {bound:>7.2}");
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
