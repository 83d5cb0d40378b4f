//! Final states and results of jobs.

use neva_executors::{JobHandle, JobState};
use neva_schemas::{RankFailure, RunReport, StopSignal, exit_class};

use crate::fixture::{Fixture, Job};

/// Returns shell text that writes the report of a run and two checkpoints, as rank 0 does.
pub(crate) fn results(steps: u64) -> String {
    let report = RunReport {
        run_dir: "run".into(),
        steps,
        losses: vec![7.5],
        checkpoint: None,
        stopped: None,
        ended_early: None,
    };
    let report = serde_json::to_string(&report).unwrap();
    format!(
        "if [ $RANK = 0 ]; then
           for steps in 3 12; do
             mkdir -p checkpoints/at-$steps
             echo '{{\"progress\":{{\"steps_done\":'$steps'}}}}' > checkpoints/at-$steps/checkpoint.json
           done
           mkdir -p checkpoints/.unfinished
           echo '{report}' > report.json
         fi\n"
    )
}

pub(crate) async fn ranks_succeed_and_leave_results(fixture: &dyn Fixture) {
    let text = format!("echo \"rank $RANK of $WORLD_SIZE\"; {}", results(12));
    let job = Job::submit(fixture, "succeed", 2, &text).await;
    let watched = job.watch().await;
    assert_eq!(watched.end.state, JobState::Succeeded);
    assert_eq!(watched.text(), "rank 0 of 2\n");
    let last = watched.statuses.last().unwrap();
    assert_eq!(last.state, JobState::Succeeded, "the last status is the end");

    let results = watched.end.results.unwrap();
    assert_eq!(results.report.as_ref().map(|report| report.steps), Some(12));
    assert_eq!(results.checkpoint, Some(job.dir.join("checkpoints/at-12")));
    // A later process gets the same from the handle alone.
    let later = fixture.executor("exit 9");
    assert_eq!(later.status(&job.handle).await.unwrap().state, JobState::Succeeded);
    assert_eq!(later.results(&job.handle).await.unwrap(), results);
}

pub(crate) async fn an_exit_code_is_the_class_of_the_failure(fixture: &dyn Fixture) {
    for class in [exit_class::JOB, exit_class::INPUT, exit_class::CLUSTER, exit_class::BUG] {
        let job = Job::submit(fixture, &format!("exit-{class}"), 1, &format!("echo last words; exit {class}")).await;
        let watched = job.watch().await;
        let failure = watched.failure();
        assert_eq!((failure.class, failure.rank), (class, Some(0)), "{failure}");
        assert_eq!(watched.text(), "last words\n");
    }
}

pub(crate) async fn a_record_of_a_rank_is_the_failure(fixture: &dyn Fixture) {
    let record = RankFailure {
        class: exit_class::INPUT,
        rank: 1,
        step: Some(7),
        unix_ms: 1000,
        chain: vec!["batch 3".into(), "dog.jpg is no image".into()],
        peer_failure: false,
        help: None,
    };
    let text = format!(
        "[ $RANK = 1 ] || exit 0; echo '{}' >> failures.jsonl; exit 2",
        serde_json::to_string(&record).unwrap()
    );
    let watched = Job::submit(fixture, "record", 2, &text).await.watch().await;
    let failure = watched.failure();
    assert_eq!((failure.class, failure.rank, failure.step), (2, Some(1), Some(7)));
    assert_eq!(failure.to_string(), "rank 1 failed in step 7: batch 3: dog.jpg is no image");
}

pub(crate) async fn a_failed_rank_ends_the_job(fixture: &dyn Fixture) {
    let text = "[ $RANK = 0 ] || exit 1
        trap 'echo saved; exit 0' TERM
        while :; do sleep 0.05; done";
    let watched = Job::submit(fixture, "peers", 2, text).await.watch().await;
    assert_eq!(watched.failure().rank, Some(1));
}

pub(crate) async fn a_script_is_a_job_of_one_process(fixture: &dyn Fixture) {
    let job = Job::submit_script(fixture, "script", "echo \"$1, $GREETING\"; echo and more >&2; pwd").await;
    let watched = job.watch().await;
    assert_eq!(watched.end.state, JobState::Succeeded);
    let folder = fixture.jobs();
    assert_eq!(watched.text(), format!("an argument, two words\nand more\n{}\n", folder.display()));
    let results = watched.end.results.unwrap();
    assert_eq!((results.report, results.checkpoint), (None, None));
}

pub(crate) async fn a_failed_script_is_a_failed_job(fixture: &dyn Fixture) {
    for (text, class) in [("exit 2", exit_class::JOB), ("exec nowhere/at/all", exit_class::CLUSTER)] {
        let watched = Job::submit_script(fixture, &format!("script-{class}"), text).await.watch().await;
        assert_eq!(watched.failure().class, class, "{text}: {}", watched.failure());
    }
}

pub(crate) async fn an_unknown_handle_is_refused(fixture: &dyn Fixture) {
    let executor = fixture.executor("exit 9");
    for handle in ["", "nowhere://job", "local:///nowhere/at/all"] {
        let handle = JobHandle(handle.into());
        let error = executor.status(&handle).await.unwrap_err();
        assert_eq!(error.exit_code(), exit_class::INPUT, "{error}");
        assert!(error.to_string().contains("there is no job"), "{error}");
        assert!(executor.cancel(&handle, StopSignal::Terminate).await.is_err() && executor.logs(&handle, 0, 0).await.is_err());
        assert!(executor.results(&handle).await.is_err());
    }
}
