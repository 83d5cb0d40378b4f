//! Several jobs in one folder, and several folders.

use neva_executors::{ExecutorError, JobState};

use super::final_states::results;
use crate::fixture::{Fixture, Job, plan};

pub(crate) async fn a_folder_holds_one_job_at_a_time(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "busy", 1, "echo ready; until [ -e go ]; do sleep 0.02; done").await;
    job.wait_for("logs/rank0.log", "ready").await;
    let submission = job.executor.render(&plan(fixture, "busy", 1)).unwrap();
    let error = job.executor.submit(&submission).await.unwrap_err();
    assert!(matches!(error, ExecutorError::AlreadyRunning { .. }), "{error:?}");
    job.write("go");
    assert_eq!(job.watch().await.end.state, JobState::Succeeded);
}

/// Two runs of one name that start in the same second get separate folders.
pub(crate) async fn a_new_folder_is_exclusive(fixture: &dyn Fixture) {
    let (one, two) = (fixture.executor("exit 9"), fixture.executor("exit 9"));
    let dir = fixture.jobs().join("name/date");
    let (one, two) = tokio::join!(one.create_folder(&dir), two.create_folder(&dir));
    let mut folders = [one.unwrap(), two.unwrap()];
    folders.sort();
    assert_eq!(folders, [dir.clone(), fixture.jobs().join("name/date-1")]);
}

/// The second attempt finds the checkpoint of the first, but not its report, logs and failures.
pub(crate) async fn a_retry_runs_in_the_same_folder(fixture: &dyn Fixture) {
    let text = format!(
        "[ -e checkpoints ] && {{ echo second; exit 0; }}\necho first; {} exit 3",
        results(12)
    );
    let first = Job::submit(fixture, "retry", 1, &text).await;
    let watched = first.watch().await;
    assert_eq!((watched.failure().class, watched.text()), (3, "first\n"));
    assert!(watched.end.results.unwrap().report.is_some());

    let second = Job::submit(fixture, "retry", 1, &text).await;
    let watched = second.watch().await;
    assert_eq!((&watched.end.state, watched.text()), (&JobState::Succeeded, "second\n"));
    let results = watched.end.results.unwrap();
    assert_eq!(results.report, None, "the report of the first attempt was removed");
    assert_eq!(results.checkpoint, Some(second.dir.join("checkpoints/at-12")));
}

pub(crate) async fn the_status_of_many_jobs_keeps_their_order(fixture: &dyn Fixture) {
    let mut handles = Vec::new();
    for code in [0, 3, 0, 2] {
        let job = Job::submit(fixture, &format!("many-{}", handles.len()), 1, &format!("exit {code}")).await;
        job.watch().await;
        handles.push(job.handle);
    }
    handles.insert(1, neva_executors::JobHandle("nowhere://job".into()));
    let statuses = fixture.executor("exit 9").statuses(&handles).await;
    let classes: Vec<_> = statuses
        .into_iter()
        .map(|status| match status.map(|status| status.state) {
            Ok(JobState::Succeeded) => Some(0),
            Ok(JobState::Failed(failure)) => Some(failure.class),
            Ok(state) => panic!("{state:?}"),
            Err(_) => None,
        })
        .collect();
    assert_eq!(classes, [Some(0), None, Some(3), Some(0), Some(2)]);
}
