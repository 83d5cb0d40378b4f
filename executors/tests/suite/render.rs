//! Submissions of the local executor, as text.

use std::path::Path;

use super::support::plan;
use neva_executors::{Coordinates, Executor, JobHandle, LocalExecutor, Topology};
use neva_schemas::{LaunchPlan, exit_class};

#[test]
fn a_submission_is_a_plan_and_a_command_line_for_each_rank() {
    let plan = plan(Path::new("/runs/it's"), 1, 2);
    let executor = LocalExecutor::new("/opt/neva-rank");
    let submission = executor.render(&plan).unwrap();
    assert_eq!(submission, executor.render(&plan).unwrap(), "pure");
    let lines: Vec<_> = submission
        .processes()
        .iter()
        .map(|process| format!("{} > {}", process, process.log.display()))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    GREETING='two words' LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=0 RANK=0 WORLD_SIZE=2 /opt/neva-rank train --plan '/runs/it'\''s/plan.json' > logs/rank0.log
    GREETING='two words' LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=0 RANK=1 WORLD_SIZE=2 /opt/neva-rank train --plan '/runs/it'\''s/plan.json' > logs/rank1.log
    ");
    let written: LaunchPlan = serde_json::from_str(&submission.files[Path::new("plan.json")]).unwrap();
    assert_eq!(written, plan);
}

#[test]
fn several_nodes_are_refused_with_a_suggestion() {
    let error = LocalExecutor::new("neva-rank").render(&plan(Path::new("/runs"), 2, 8)).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::INPUT);
    assert_eq!(
        error.to_string(),
        "the `local` executor starts ranks on this machine only, but the run needs 2 nodes"
    );
    assert!(error.help().unwrap().contains("--set num_nodes=1"));
}

#[tokio::test]
async fn an_unknown_handle_is_refused() {
    let executor = LocalExecutor::new("neva-rank");
    for handle in ["slurm://cluster/12", "local:///nowhere", ""] {
        let error = executor.status(&JobHandle(handle.into())).await.unwrap_err();
        assert_eq!(
            (error.to_string(), error.exit_code()),
            (format!("there is no job {handle}"), exit_class::INPUT)
        );
    }
}

#[test]
fn ranks_fill_the_mesh_with_the_tensor_axis_fastest() {
    let mut plan = plan(Path::new("/runs"), 2, 4);
    plan.run.finetune.trainer.strategy.tensor_model_parallel_size = 2;
    plan.run.finetune.trainer.strategy.pipeline_model_parallel_size = 2;
    let topology = Topology::from_plan(&plan).unwrap();
    let placements: Vec<_> = topology
        .ranks()
        .map(
            |Coordinates {
                 node, local_rank, mesh, ..
             }| (node, local_rank, mesh.tp, mesh.cp, mesh.dp, mesh.pp),
        )
        .collect();
    assert_eq!(
        placements,
        [
            (0, 0, 0, 0, 0, 0),
            (0, 1, 1, 0, 0, 0),
            (0, 2, 0, 0, 1, 0),
            (0, 3, 1, 0, 1, 0),
            (1, 0, 0, 0, 0, 1),
            (1, 1, 1, 0, 0, 1),
            (1, 2, 0, 0, 1, 1),
            (1, 3, 1, 0, 1, 1),
        ]
    );
    let env = topology.rank_env(6, "head", 29500);
    assert_eq!((env.local_rank, env.local_world_size, env.world_size), (2, 4, 8));

    plan.run.finetune.trainer.strategy.tensor_model_parallel_size = 3;
    assert_eq!(Topology::from_plan(&plan), None);
}
