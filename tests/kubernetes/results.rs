//! Results of a job whose pods are gone.

use neva_executors::{Executor as _, JobHandle, JobState, KubernetesExecutor};
use neva_schemas::KubernetesExecutorConfig;
use neva_tests::small::{small, words};
use serde_json::Value;

use crate::cluster::Cluster;

#[test]
fn a_job_without_its_pods_keeps_its_results() {
    let cluster = Cluster::any();
    let space = cluster.space("results");
    let executor = space.executor("kubernetes", "");
    let arguments = small(&space.runs(), "run", &["finetune.trainer.max_steps=10"]);
    let _ = space.run(&words(&arguments, &["--executor", &executor])).with_code(0);
    let job = space.objects("jobs").remove(0);
    let text = |path: &str| job.pointer(path).and_then(Value::as_str).unwrap().to_owned();
    let (name, uid) = (text("/metadata/name"), text("/metadata/uid"));
    let dir = text("/metadata/annotations/neva-run~1dir");
    let handle = JobHandle(format!("kubernetes://{}/{name}/{uid}{dir}", space.name));

    for pod in space.pods() {
        let _ = space.kubectl(&["delete", "pod", &pod.name]);
    }
    let config = KubernetesExecutorConfig {
        kubeconfig: Some(cluster.kubeconfig().display().to_string()),
        ..KubernetesExecutorConfig::default()
    };
    // The handle names the namespace, which is not the one of the kubeconfig.
    let executor = KubernetesExecutor::new(config);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_eq!(executor.status(&handle).await.unwrap().state, JobState::Succeeded);
        let results = executor.results(&handle).await.unwrap();
        assert_eq!(results.report.expect("a report").steps, 10);
        assert!(results.checkpoint.is_some());
    });
}
