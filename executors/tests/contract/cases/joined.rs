//! Several tasks that become one job, on executors that offer it.

use std::collections::BTreeSet;

use neva_executors::{JobState, TaskSet, TaskSetKind, WatchFrom, Work};
use neva_schemas::{ExecutorConfig, LaunchPlan, SlurmExecutorConfig, exit_class};

use crate::fixture::{Fixture, Loss, Watched, plan};

/// Each task notes that it started; `b` fails.
const RANKS: &str = "echo started; echo x >> ../starts; case $PWD in */b*) exit 3 ;; esac";

/// Each task has a handle, an output, an end and a folder of its own, and a lost connection starts none twice.
pub(crate) async fn joined_tasks_end_each_for_itself(fixture: &dyn Fixture) {
    let executor = fixture.executor(RANKS);
    let config = ExecutorConfig::Slurm(Box::new(SlurmExecutorConfig {
        gpus_per_node: Some(0),
        ..SlurmExecutorConfig::default()
    }));
    let losses: [&[Loss]; 3] = [
        &[],
        &[Loss::OfReply, Loss::OfRequest],
        &[Loss::OfRequest, Loss::OfReply, Loss::OfReply],
    ];
    for (number, losses) in losses.into_iter().enumerate() {
        let plans: Vec<LaunchPlan> = ["a", "b", "c"]
            .iter()
            .map(|task| plan(fixture, &format!("{task}{number}"), 1))
            .collect();
        let tasks: Vec<_> = plans.iter().map(|plan| (&config, Work::Ranks(plan))).collect();
        let dir = fixture.jobs().join(format!("set-{number}"));
        let rendered = executor.render_tasks(&TaskSet {
            name: "set",
            dir: &dir,
            kind: TaskSetKind::Array { cap: Some(2) },
            tasks: &tasks,
        });
        if !executor.joins_tasks() {
            assert_eq!(
                rendered.unwrap_err().exit_code(),
                exit_class::INPUT,
                "an executor that joins no tasks refuses them"
            );
            return;
        }
        let submission = rendered.unwrap();
        fixture.lose(losses);
        let handles = executor.submit_tasks(&submission, &[]).await.unwrap();
        assert_eq!(
            handles.iter().map(|handle| &handle.0).collect::<BTreeSet<_>>().len(),
            3,
            "{handles:?}"
        );
        for (plan, handle) in plans.iter().zip(&handles) {
            // A further launcher finds it, and follows it.
            let found = fixture.executor(RANKS).find_job(&plan.run_dir).await.unwrap();
            assert_eq!(found.as_ref(), Some(handle));
            let watched = Watched::of(&*executor, handle, WatchFrom::rank0()).await;
            assert_eq!(watched.text(), "started\n");
            if plan.name.starts_with('b') {
                assert_eq!(watched.failure().class, 3, "{watched:?}");
            } else {
                assert_eq!(watched.end.state, JobState::Succeeded);
            }
        }
        let starts = fixture.read(&fixture.jobs().join("starts"));
        assert_eq!(starts.lines().count(), 3 * (number + 1), "{losses:?}");
        let statuses = executor.statuses(&handles).await;
        let ends: Vec<_> = statuses
            .into_iter()
            .map(|status| status.unwrap().state == JobState::Succeeded)
            .collect();
        assert_eq!(ends, [true, false, true]);
    }
}
