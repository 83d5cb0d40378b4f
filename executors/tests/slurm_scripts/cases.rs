//! Jobs whose scripts are golden files.

use std::path::{Path, PathBuf};

use neva_executors::{
    ExecutorError, Submission,
    slurm::render::{GroupTask, Work, render, render_array, render_group, render_script},
};
use neva_recipes::{llava15_7b, neva_tiny};
use neva_schemas::{LaunchPlan, PLAN_FORMAT, RecipeArgs, Run, ScriptPlan, SlurmExecutorConfig};
use serde_json::{Value, json};

/// The rank program of the cases.
pub(crate) const PROGRAM: &str = "/opt/neva/bin/neva-rank";

/// Returns an executor with these settings.
pub(crate) fn config(settings: &Value) -> SlurmExecutorConfig {
    serde_json::from_value(settings.clone()).unwrap()
}

/// Returns a plan of `neva_tiny`.
pub(crate) fn tiny(run_dir: &Path, num_nodes: u32, ranks_per_node: u32) -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes,
        num_gpus_per_node: ranks_per_node,
        ..neva_tiny::default_args()
    };
    plan(run_dir, Run::new("neva_tiny", args.clone(), neva_tiny::finetune_recipe(args)))
}

fn llava(run_dir: &str) -> LaunchPlan {
    let args = RecipeArgs {
        num_nodes: 2,
        num_gpus_per_node: 8,
        ..llava15_7b::default_args()
    };
    let run = Run::new("llava15_7b", args.clone(), llava15_7b::finetune_recipe(args));
    LaunchPlan {
        name: "llava15_7b".into(),
        ..plan(Path::new(run_dir), run)
    }
}

fn plan(run_dir: &Path, run: Run) -> LaunchPlan {
    let trainer = &run.finetune.trainer;
    LaunchPlan {
        format: PLAN_FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        name: "default".into(),
        run_dir: run_dir.to_owned(),
        num_nodes: trainer.num_nodes,
        ranks_per_node: trainer.devices,
        env: Default::default(),
        run,
    }
}

/// Returns a script in `run_dir`.
pub(crate) fn script(run_dir: &Path, text: &str) -> ScriptPlan {
    ScriptPlan {
        name: "prepare".into(),
        run_dir: run_dir.to_owned(),
        working_directory: "/home/alice/project".into(),
        text: text.into(),
        entrypoint: vec!["bash".into(), "-eu".into()],
        args: vec!["two words".into()],
        env: [("STAGE".to_owned(), "one".to_owned())].into(),
    }
}

/// A job with a golden script.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) submission: Submission,
}

/// Returns all cases.
pub(crate) fn cases() -> Vec<Case> {
    let dir = "/scratch/alice/runs/llava15_7b/2026-11-24_10-00-00";
    let run = |name, settings: Value| case(name, rendered(&settings, &llava(dir)));
    let tiny_run = tiny(Path::new("/scratch/alice/runs/default/2026-11-24_10-00-00"), 2, 2);
    vec![
        run("llava15_7b_2x8", common(json!({}))),
        run(
            "pyxis",
            common(json!({
                "container_image": "nvcr.io/nvidia/pytorch:25.04-py3",
                "container_mounts": ["/lustre/data:/data:ro", "/lustre/checkpoints"],
                "container_env": ["NCCL_IB_HCA"],
                "env_from": ["HF_TOKEN"],
            })),
        ),
        run(
            "apptainer",
            common(json!({
                "container_runtime": "apptainer",
                "container_image": "/images/neva run.sif",
                "container_mounts": ["/lustre/data:/data:ro"],
                "env_from": ["HF_TOKEN"],
                "rank_program": "/opt/neva/bin/neva-rank",
            })),
        ),
        run(
            "nsys",
            common(json!({
                "launcher": {"run.Torchrun": {"nsys_profile": true, "nsys_gpu_metrics": true, "rdzv_port": 29500}},
                "memory_measure": true,
            })),
        ),
        run(
            "old_slurm",
            json!({
                "partition": "gpu",
                "time": "1-00:00:00",
                "slurm_version": "18.08.4",
                "gres": "gpu:v100:8",
                "modules": ["gcc/12", "cuda/12.8"],
                "libtorch": "/opt/libtorch",
                "memory_measure": true,
                "signal": "B:USR1@300",
                "additional_parameters": {"mail-type": "END", "mail_user": "alice@example.org", "open-mode": null},
                "progress_interval_s": 0,
            }),
        ),
        case("neva_tiny_2x2", rendered(&json!({"partition": "cpu", "time": "10"}), &tiny_run)),
        case(
            "script",
            render_script(
                &config(&json!({"time": "1:00:00", "retries": 1, "nodes": 1, "comment": "the \"first\" # one"})),
                &script(Path::new("/scratch/alice/tasks/prepare"), "echo hello\n"),
            ),
        ),
        array(),
        group("group", json!({"monitor_group_job_wait_time": 10})),
        group(
            "heterogeneous",
            json!({"heterogeneous": true, "wait_time_for_group_job": 0, "retries": 1}),
        ),
    ]
}

/// Returns the settings of a common cluster, with others.
fn common(mut settings: Value) -> Value {
    let shared = json!({
        "account": "acct_general_ml",
        "partition": "batch",
        "qos": "normal",
        "time": "04:00:00",
        "constraint": "h100",
        "exclusive": true,
        "mem": "0",
        "cpus_per_task": 14,
        "signal_s": 120,
        "retries": 2,
        "setup_lines": "ulimit -l unlimited\nmodule list",
        "srun_args": ["--mpi=none"],
        "dependencies": ["1234", "1235"],
        "reservation": "spring",
    });
    for (name, value) in shared.as_object().into_iter().flatten() {
        settings.as_object_mut().unwrap().entry(name.as_str()).or_insert(value.clone());
    }
    settings
}

fn rendered(settings: &Value, plan: &LaunchPlan) -> Result<Submission, ExecutorError> {
    let mut plan = plan.clone();
    plan.env = [
        ("HF_HOME".to_owned(), "/data/hf".to_owned()),
        ("MSG".to_owned(), "two words, it's $HOME".to_owned()),
        ("http_proxy".to_owned(), "http://proxy:3128".to_owned()),
    ]
    .into();
    render(&config(settings), &plan, Path::new(PROGRAM))
}

fn array() -> Case {
    let root = PathBuf::from("/scratch/alice/experiments/lr");
    let plans: Vec<_> = (0..8)
        .map(|number| {
            let mut plan = tiny(&root.join(format!("tasks/lr={number}e-4")), 1, 2);
            plan.env = [
                ("NEVA_TASK".to_owned(), format!("lr={number}e-4")),
                ("SHARED".to_owned(), "yes".to_owned()),
            ]
            .into();
            plan
        })
        .collect();
    let works: Vec<_> = plans.iter().map(Work::Ranks).collect();
    let settings = json!({"account": "acct", "time": "30", "signal_s": 60});
    case(
        "array",
        render_array(&config(&settings), "lr", &root, &works, Some(2), Path::new(PROGRAM)),
    )
}

fn group(name: &'static str, settings: Value) -> Case {
    let root = PathBuf::from("/scratch/alice/experiments/pair/group");
    let train = tiny(&root.join("train"), 2, 2);
    let mut settings = settings;
    settings["partition"] = json!("gpu");
    let partition = if settings["heterogeneous"] == json!(true) { "cpu" } else { "gpu" };
    let own = config(&json!({"partition": partition, "cpus_per_task": 4, "nodes": 1}));
    let first = config(&settings);
    let serve = script(&root.join("serve"), "exec python3 -m http.server\n");
    let tasks = [
        GroupTask {
            config: &first,
            work: Work::Ranks(&train),
        },
        GroupTask {
            config: &own,
            work: Work::Script(&serve),
        },
    ];
    case(name, render_group("pair", &root, &tasks, Path::new(PROGRAM)))
}

fn case(name: &'static str, submission: Result<Submission, ExecutorError>) -> Case {
    Case {
        name,
        submission: submission.unwrap_or_else(|error| panic!("{name}: {error}")),
    }
}
