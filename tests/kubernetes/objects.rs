//! The objects of a job in the cluster: who owns them, how they were written, and how they end.

use neva_tests::{
    small::{small, words},
    wait_for,
};
use serde_json::Value;

use crate::{cluster::Cluster, training::TWO_BY_TWO};

/// Settings that change how a job ends, and its pods.
const SETTINGS: &str = "succeed_with_rank_0: true\nttl_seconds_after_finished: 30\n\
    overrides:\n  spec.template.metadata.annotations.neva-run\\.test/note: patched\n  spec.template.spec.containers.0.tty: true";

#[test]
fn objects_belong_to_the_job_and_are_removed_with_it() {
    let cluster = Cluster::any();
    let space = cluster.space("objects");
    let executor = space.executor("kubernetes", SETTINGS);
    let arguments = small(&space.runs(), "run", &[&["finetune.trainer.max_steps=5"][..], &TWO_BY_TWO].concat());
    let _ = space.run(&words(&arguments, &["--executor", &executor])).with_code(0);

    let job = space.objects("jobs").remove(0);
    let name = job["metadata"]["name"].as_str().unwrap();
    for kind in ["configmap", "service"] {
        let text = space.kubectl(&["get", kind, name, "--show-managed-fields", "-o", "json"]);
        let object: Value = serde_json::from_str(&text).unwrap();
        let owners = &object["metadata"]["ownerReferences"];
        assert_eq!(owners[0]["uid"], job["metadata"]["uid"], "{kind}: {owners}");
        let writers = object["metadata"]["managedFields"].as_array().unwrap();
        let is_ours = |writer: &Value| writer["manager"] == "neva-run" && writer["operation"] == "Apply";
        assert!(writers.iter().any(is_ours), "{kind}: {writers:?}");
    }
    let pods = space.objects("pods");
    // The success of rank 0 may have ended the other pod, which is then deleted.
    assert!(!pods.is_empty());
    for pod in &pods {
        assert_eq!(pod["metadata"]["annotations"]["neva-run.test/note"], "patched");
        assert_eq!(pod["spec"]["containers"][0]["tty"], true);
    }
    let conditions = job["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|condition| condition["type"] == "SuccessCriteriaMet" && condition["reason"] == "SuccessPolicy"),
        "{conditions:?}"
    );

    // The time to live of the Job passes, and everything that it owns goes with it.
    for kind in ["jobs", "pods", "services", "configmaps"] {
        wait_for(kind, || space.objects(kind).is_empty().then_some(()));
    }
}
