//! Jobs that are refused before anything is sent.

use neva_executors::kubernetes::render::render;
use serde_json::json;

use crate::cases::{config, llava, tiny};

#[test]
fn what_cannot_work_is_refused_with_what_to_type() {
    let shared = json!([{"mount_path": "/runs", "claim": "runs"}]);
    for (settings, plan, message, help) in [
        (json!({"volumes": []}), tiny(1, 1), "is in no volume", "executor.volumes"),
        (
            json!({"volumes": [{"mount_path": "/runs", "empty_dir": ""}]}),
            tiny(2, 1),
            "no other pod sees",
            "claim",
        ),
        (
            json!({"volumes": [{"mount_path": "/runs", "claim": "runs", "read_only": true}]}),
            tiny(1, 1),
            "read only",
            "read_only",
        ),
        (
            json!({"volumes": [{"mount_path": "/elsewhere", "claim": "runs"}]}),
            tiny(1, 1),
            "is in no volume",
            "/elsewhere",
        ),
        (json!({"gpus_per_node": 4}), llava(), "8 ranks on each node", "gpus_per_node=8"),
        (
            json!({"gpus_per_node": 12, "one_rank_per_pod": true}),
            llava(),
            "cannot be divided",
            "gpus_per_node=8",
        ),
        (
            json!({"backoff_limit_per_index": 1}),
            tiny(2, 1),
            "restarts a pod alone",
            "executor.retries",
        ),
        (json!({"succeed_with_rank_0": true}), tiny(1, 2), "has no effect", "remove"),
        (
            json!({"affinity": {"nodeAffinty": {}}}),
            tiny(1, 1),
            "no field `spec.template.spec.affinity.nodeAffinty`",
            "affinity",
        ),
        (
            json!({"overrides": {"spec.template.spec.hostIPC": "yes"}}),
            tiny(1, 1),
            "Kubernetes does not accept the job",
            "overrides",
        ),
        (
            json!({"overrides": {"spec.template.spec.containers.3.tty": true}}),
            tiny(1, 1),
            "not an item of a list of 1",
            "a path",
        ),
        (
            json!({"kind": "trainjob", "retries": 1}),
            tiny(1, 1),
            "cannot be set in a TrainJob",
            "kind: job",
        ),
        (
            json!({"kind": "jobset", "tolerations": [{"kee": "x"}], "volumes": shared}),
            tiny(1, 1),
            "tolerations.0.kee",
            "tolerations",
        ),
    ] {
        let error = render(&config(&settings), &plan).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{settings}: {error}");
        assert!(error.to_string().contains(message), "{settings}: {error}");
        assert!(error.help().unwrap_or_default().contains(help), "{settings}: {:?}", error.help());
    }
}
