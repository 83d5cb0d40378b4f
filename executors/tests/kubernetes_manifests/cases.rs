//! Jobs whose manifests are golden files.

use std::path::{Path, PathBuf};

use neva_executors::{
    ExecutorError, Submission,
    kubernetes::render::{render, render_script},
};
use neva_recipes::{llava15_7b, neva_tiny};
use neva_schemas::{KubernetesExecutorConfig, LaunchPlan, PLAN_FORMAT, RecipeArgs, Run, ScriptPlan};
use serde_json::{Value, json};

/// Returns an executor with these settings, an image and a shared volume.
pub(crate) fn config(settings: &Value) -> KubernetesExecutorConfig {
    let mut all = json!({
        "image": "registry.example.org/team/neva:0.1.0",
        "volumes": [{"mount_path": "/runs", "claim": "runs"}],
    });
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

/// Returns a plan of `neva_tiny`.
pub(crate) fn tiny(num_nodes: u32, ranks_per_node: u32) -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes,
        num_gpus_per_node: ranks_per_node,
        ..neva_tiny::default_args()
    };
    plan("neva_tiny", Run::new("neva_tiny", args.clone(), neva_tiny::finetune_recipe(args)))
}

/// Returns a plan of `llava15_7b` on two nodes with eight GPUs each.
pub(crate) fn llava() -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes: 2,
        num_gpus_per_node: 8,
        ..llava15_7b::default_args()
    };
    plan(
        "llava15_7b",
        Run::new("llava15_7b", args.clone(), llava15_7b::finetune_recipe(args)),
    )
}

fn plan(name: &str, run: Run) -> LaunchPlan {
    let trainer = &run.finetune.trainer;
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "0.1.0".into(),
        name: name.into(),
        run_dir: PathBuf::from(format!("/runs/{name}/2026-11-24_10-00-00")),
        num_nodes: trainer.num_nodes,
        ranks_per_node: trainer.devices,
        env: [
            ("HF_HOME".to_owned(), "/data/hf".to_owned()),
            ("MSG".to_owned(), "two words, it's $HOME $(HOME)".to_owned()),
        ]
        .into(),
        run,
    }
}

/// Returns a script.
pub(crate) fn script() -> ScriptPlan {
    ScriptPlan {
        name: "prepare".into(),
        run_dir: "/runs/experiments/first/tasks/prepare".into(),
        working_directory: "/runs/code".into(),
        text: "echo \"hello $1\"\n".into(),
        entrypoint: vec!["bash".into(), "-eu".into()],
        args: vec!["an argument".into()],
        env: [("STAGE".to_owned(), "1".to_owned())].into(),
    }
}

/// A job.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) submission: Submission,
}

/// Returns all jobs.
pub(crate) fn cases() -> Vec<Case> {
    let site = json!({
        "namespace": "training",
        "volumes": [
            {"mount_path": "/runs", "nfs": {"server": "nfs.example.org", "path": "/exports/runs"}},
            {"mount_path": "/data", "claim": "photos", "read_only": true, "sub_path": "llava"},
            {"mount_path": "/scratch", "empty_dir": "100Gi"},
        ],
        "requests": {"cpu": "48", "memory": "400Gi"},
        "limits": {"memory": "400Gi", "rdma/hca_shared_devices_a": "8"},
        "shm_size": "64Gi",
        "image_pull_policy": "IfNotPresent",
        "image_pull_secrets": ["registry-login"],
        "node_selector": {"gpu.example.org/model": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "one_pod_per_node": true,
        "topology_spread_constraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
        "priority_class": "research",
        "security_context": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "runAsNonRoot": true},
        "container_security_context": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["IPC_LOCK"]}},
        "labels": {"example.org/team": "vision"},
        "annotations": {"example.org/ticket": "no 17: a run"},
        "retries": 2,
        "active_deadline_seconds": 86400,
        "ttl_seconds_after_finished": 604800,
        "termination_grace_period_seconds": 120,
        "setup_lines": "ulimit -l unlimited || true",
        "env_from": ["HF_TOKEN"],
        "env_secrets": {"WANDB_API_KEY": "wandb/key"},
        "overrides": {
            "spec.template.spec.hostIPC": true,
            "spec.template.metadata.annotations.k8s\\.v1\\.cni\\.cncf\\.io/networks": "rdma-net",
        },
    });
    let other = |kind: &str| {
        let mut settings = site.clone();
        settings["kind"] = json!(kind);
        for name in [
            "overrides",
            "topology_spread_constraints",
            "priority_class",
            "image_pull_policy",
            "retries",
            "ttl_seconds_after_finished",
            "termination_grace_period_seconds",
        ] {
            settings.as_object_mut().unwrap().remove(name);
        }
        render(&config(&settings), &llava())
    };
    vec![
        case("llava15_7b_2x8", render(&config(&site), &llava())),
        case("neva_tiny_1x1", render(&config(&json!({})), &tiny(1, 1))),
        case("neva_tiny_2x2", render(&config(&json!({"retries": 1})), &tiny(2, 2))),
        case(
            "one_rank_per_pod",
            render(
                &config(&json!({"one_rank_per_pod": true, "succeed_with_rank_0": true, "host_network": true, "master_port": 29_501})),
                &tiny(2, 2),
            ),
        ),
        case("kueue", render(&config(&json!({"queue": "research"})), &tiny(2, 1))),
        case("without_volume", render(&config(&json!({"volumes": []})), &in_pod())),
        case(
            "script",
            render_script(&config(&json!({"backoff_limit_per_index": 3, "service_account": "etl"})), &script()),
        ),
        case("jobset", other("jobset")),
        case("trainjob", other("trainjob")),
    ]
}

fn in_pod() -> LaunchPlan {
    LaunchPlan {
        run_dir: Path::new("/neva/runs/neva_tiny").into(),
        ..tiny(1, 2)
    }
}

fn case(name: &'static str, submission: Result<Submission, ExecutorError>) -> Case {
    Case {
        name,
        submission: submission.unwrap_or_else(|error| panic!("{name}: {error}")),
    }
}
