//! Jobs whose requests and scripts are golden files.

use std::path::Path;

use neva_executors::{DockerExecutor, Executor as _, ExecutorError, Payload, Submission};
use neva_recipes::{llava15_7b, neva_tiny};
use neva_schemas::{DockerExecutorConfig, LaunchPlan, PLAN_FORMAT, RecipeArgs, Run, ScriptPlan};
use serde_json::{Value, json};

/// Returns an executor with these settings.
pub(crate) fn executor(settings: &Value) -> DockerExecutor {
    let mut settings = settings.clone();
    if settings.get("container_image").is_none() {
        settings["container_image"] = json!("neva-run");
    }
    let config: DockerExecutorConfig = serde_json::from_value(settings).unwrap();
    DockerExecutor::new(config, "/run/docker.sock", "1000:1000")
}

/// Returns a plan of a recipe in `run_dir`.
pub(crate) fn plan(recipe: &str, run_dir: &Path, ranks: u32) -> LaunchPlan {
    let args = |default: RecipeArgs| RecipeArgs {
        num_nodes: 1,
        num_gpus_per_node: ranks,
        ..default
    };
    let run = if recipe == "llava15_7b" {
        let args = args(llava15_7b::default_args());
        Run::new(recipe, args.clone(), llava15_7b::finetune_recipe(args))
    } else {
        let args = args(neva_tiny::default_args());
        Run::new(recipe, args.clone(), neva_tiny::finetune_recipe(args))
    };
    LaunchPlan {
        format: PLAN_FORMAT,
        version: "0.0.0".into(),
        name: recipe.into(),
        run_dir: run_dir.to_owned(),
        num_nodes: 1,
        ranks_per_node: ranks,
        env: [("GREETING".to_owned(), "two 'words' of ~".to_owned())].into(),
        run,
    }
}

pub(crate) fn script(run_dir: &Path, text: &str) -> ScriptPlan {
    ScriptPlan {
        name: "prepare data".into(),
        run_dir: run_dir.to_owned(),
        working_directory: "/home/me/project".into(),
        text: text.into(),
        entrypoint: vec!["python3".into()],
        args: vec!["an argument".into()],
        env: [("MODE".to_owned(), "fast".to_owned())].into(),
    }
}

/// The cases by name.
pub(crate) fn cases() -> Vec<(&'static str, Result<Submission, ExecutorError>)> {
    let dir = Path::new("/home/me/nemo_experiments/run/2026-11-24_10-00-00");
    let every_field = json!({
        "container_image": "nvcr.io/nvidia/nemo:25.04",
        "ntasks_per_node": 8,
        "runtime": "nvidia",
        "num_gpus": -1,
        "shm_size": "16g",
        "ulimits": ["memlock:-1:-1", "stack=67108864"],
        "ipc_mode": "host",
        "healthcheck": { "test": "nvidia-smi", "interval": 30_000_000_000_u64, "retries": 3 },
        "privileged": true,
        "network": "training",
        "volumes": ["/data:ro", "/opt/neva-run", "cache:/cache"],
        "user": "1234:1234",
        "rank_program": "/opt/neva-run/bin/neva-rank",
        "libtorch": "/opt/torch/lib",
        "env_from": ["HF_TOKEN"],
        "retries": 2,
        "settle_s": 5,
        "grace_s": 120,
        "launcher": "torchrun",
        "additional_kwargs": {
            "mem_limit": "64g", "cap_add": ["IPC_LOCK"], "init": true,
            "HostConfig": { "OomScoreAdj": 500, "Devices": [{ "PathOnHost": "/dev/infiniband", "PathInContainer": "/dev/infiniband" }] },
            "Labels": { "team": "vision" },
        },
    });
    let mut chosen = plan("llava15_7b", dir, 2);
    chosen.env.insert("CUDA_VISIBLE_DEVICES".into(), "4,5".into());
    let packed = json!({ "packager": { "run.PatternPackager": { "include_pattern": "*.py", "relative_path": "/home/me/project" } } });
    vec![
        ("neva_tiny_2", executor(&json!({})).render(&plan("neva_tiny", dir, 2))),
        (
            "host_network",
            executor(&json!({ "network": "host" })).render(&plan("neva_tiny", dir, 1)),
        ),
        ("llava15_7b_8", executor(&every_field).render(&plan("llava15_7b", dir, 8))),
        ("chosen_gpus", executor(&json!({})).render(&chosen)),
        ("script", executor(&json!({})).render_script(&script(dir, "print(1)"))),
        ("packed_script", executor(&packed).render_script(&script(dir, "print(1)"))),
    ]
}

/// Returns the request of a submission.
pub(crate) fn request(submission: &Submission) -> &Value {
    match &submission.payload {
        Payload::Manifests(manifests) => &manifests.manifests[0],
        payload => panic!("{payload:?}"),
    }
}
