//! Plans that do not fit the executor's settings.

use std::path::Path;

use neva_executors::slurm::render::{GroupTask, Work, render, render_array, render_group, render_script};
use neva_schemas::{Accelerator, exit_class};
use serde_json::{Value, json};

use crate::cases::{PROGRAM, config, script, tiny};

#[test]
fn contradictions_are_refused_with_a_fix() {
    let cases: &[(Value, &str, &str)] = &[
        (json!({"nodes": 4}), "`executor.nodes` is 4, but the run has 2 nodes", "num_nodes=4"),
        (
            json!({"ntasks_per_node": 8}),
            "`executor.ntasks_per_node` is 8, but the run has 2 ranks on each node",
            "num_gpus_per_node=8",
        ),
        (
            json!({"torchrun_nproc_per_node": 8}),
            "`executor.torchrun_nproc_per_node` is 8, but the run has 2 ranks",
            "num_gpus_per_node=8",
        ),
        (
            json!({"gpus_per_node": 1}),
            "the run has 2 ranks on each node, but the executor requests 1 GPUs",
            "executor.gpus_per_node=2",
        ),
        (json!({"gres": "gpu:a100:1"}), "requests 1 GPUs", "num_gpus_per_node=1"),
        (json!({"array": "0-7%2"}), "would all train in the same folder", "sweep"),
        (json!({"array": "%2"}), "would all train in the same folder", "--max-parallel 2"),
        (
            json!({"heterogeneous": true}),
            "the components of a heterogeneous job are the tasks of a group",
            "into a group",
        ),
        (
            json!({"segment": 4, "slurm_version": "22.05"}),
            "`executor.segment` needs Slurm 23.11",
            "remove",
        ),
        (
            json!({"gpus_per_task": 1, "slurm_version": "18.08"}),
            "need Slurm 19.05",
            "use `gres`",
        ),
    ];
    let mut plan = tiny(Path::new("/runs/x"), 2, 2);
    plan.run.finetune.trainer.accelerator = Accelerator::Gpu;
    for (settings, message, help) in cases {
        let error = render(&config(settings), &plan, Path::new(PROGRAM)).unwrap_err();
        assert!(error.to_string().contains(message), "{settings}: {error}");
        assert!(error.help().unwrap().contains(help), "{settings}: {:?}", error.help());
        assert_eq!(error.exit_code(), exit_class::INPUT, "{settings}");
    }
    // NeMo-Run's torchrun: one task that starts all ranks of a node.
    for fits in [
        json!({"ntasks_per_node": 1, "torchrun_nproc_per_node": 2}),
        json!({"nodes": 2, "gpus_per_node": 8}),
        json!({"gpus_per_node": 0}),
        json!({"gpus_per_task": 1}),
    ] {
        render(&config(&fits), &plan, Path::new(PROGRAM)).unwrap();
    }
}

#[test]
fn a_cap_alone_is_refused_for_a_single_script() {
    let work = script(Path::new("/runs/x"), "true\n");
    let error = render_script(&config(&json!({"array": "%2"})), &work).unwrap_err();
    assert!(error.to_string().contains("only the cap \"%2\""), "{error}");
    assert!(error.help().unwrap().contains("\"0-7%2\""), "{:?}", error.help());
    assert_eq!(error.exit_code(), exit_class::INPUT);
    render_script(&config(&json!({"array": "0-7%2"})), &work).unwrap();
}

#[test]
fn folders_that_slurm_reads_otherwise_are_refused() {
    for dir in ["/runs/100%", "/runs/a\\b", "/runs/two\nlines"] {
        let error = render(&config(&json!({})), &tiny(Path::new(dir), 1, 1), Path::new(PROGRAM)).unwrap_err();
        assert_eq!(error.exit_code(), exit_class::INPUT, "{dir:?}: {error}");
    }
    let settings = config(&json!({"container_image": "x.sqsh"}));
    let error = render(&settings, &tiny(Path::new("/runs/lr=1,dim=2"), 1, 1), Path::new(PROGRAM)).unwrap_err();
    assert!(error.to_string().contains("separate the mounts"), "{error}");
}

#[test]
fn arrays_and_groups_that_cannot_be_one_job_are_refused() {
    let (config, program) = (
        config(&json!({"heterogeneous": true, "het_group_indices": [0, 2]})),
        Path::new(PROGRAM),
    );
    let root = Path::new("/runs");
    let (one, two) = (tiny(&root.join("a"), 1, 1), tiny(&root.join("b"), 1, 2));
    let array = render_array(&config, "x", root, &[&one, &two].map(Work::Ranks), None, program).unwrap_err();
    assert!(array.to_string().contains("needs other nodes, ranks or GPUs"), "{array}");
    assert!(render_array(&config, "x", root, &[], None, program).is_err());
    let tasks = [&one, &two].map(|plan| GroupTask {
        config: &config,
        work: Work::Ranks(plan),
    });
    let group = render_group("x", root, &tasks, program).unwrap_err();
    assert!(group.to_string().contains("het_group_indices"), "{group}");
    assert!(render_group("x", root, &[], program).is_err());
}
