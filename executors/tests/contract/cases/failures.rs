//! Lost connections and killed launchers.

use neva_executors::{JobState, WatchFrom};

use crate::fixture::{Fixture, Job, Loss, Watched, plan};

pub(crate) async fn a_connection_lost_during_submit_starts_one_job(fixture: &dyn Fixture) {
    let cases: &[&[Loss]] = &[
        &[Loss::OfRequest],
        &[Loss::OfReply],
        &[Loss::OfReply, Loss::OfRequest, Loss::OfReply],
        &[Loss::OfRequest, Loss::OfRequest, Loss::OfReply],
    ];
    for (number, losses) in cases.iter().enumerate() {
        let executor = fixture.executor("echo started; echo x >> ../starts");
        let name = format!("submit-{number}");
        let submission = executor.render(&plan(fixture, &name, 1)).unwrap();
        fixture.lose(losses);
        let handle = executor.submit(&submission).await.unwrap();
        let watched = Watched::of(&*executor, &handle, WatchFrom::rank0()).await;
        assert_eq!((watched.end.state.clone(), watched.text()), (JobState::Succeeded, "started\n"));
        let starts = fixture.read(&fixture.jobs().join("starts"));
        assert_eq!(starts.lines().count(), number + 1, "{losses:?}");
    }
}

pub(crate) async fn a_connection_lost_during_a_watch_is_reported_and_restored(fixture: &dyn Fixture) {
    let text = "echo one; until [ -e go ]; do sleep 0.02; done; echo two";
    let job = Job::submit(fixture, "watch", 1, text).await;
    job.wait_for("logs/rank0.log", "one").await;
    let is_lost = fixture.lose(&[Loss::OfRequest, Loss::OfReply, Loss::OfRequest]);
    job.write("go");
    let watched = job.watch().await;
    assert_eq!((watched.end.state.clone(), watched.text()), (JobState::Succeeded, "one\ntwo\n"));
    assert_eq!(watched.losses > 0, is_lost, "a loss is reported");
    assert_eq!(watched.losses, watched.restorations, "and so is its end");
}

/// Either the job continues, or it has ended with all its processes; a later process can tell which.
pub(crate) async fn a_killed_launcher_leaves_a_definite_state(fixture: &dyn Fixture) {
    let text = "echo $$ > pid; echo ready; until [ -e go ]; do sleep 0.02; done; echo done";
    // Only the launcher's runtime keeps its tasks alive.
    let executor = fixture.executor(text);
    let submission = executor.render(&plan(fixture, "killed", 1)).unwrap();
    let dir = submission.dir.clone();
    let launcher = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.block_on(executor.submit(&submission)).unwrap();
        runtime.shutdown_background();
        handle
    });
    let handle = tokio::task::spawn_blocking(|| launcher.join().unwrap()).await.unwrap();
    let later = Job {
        fixture,
        executor: fixture.executor(text),
        handle,
        dir,
    };
    if fixture.outlives_launcher() {
        later.wait_for("logs/rank0.log", "ready").await;
        later.write("go");
        let watched = later.watch().await;
        assert_eq!((watched.end.state.clone(), watched.text()), (JobState::Succeeded, "ready\ndone\n"));
    } else {
        let watched = later.watch().await;
        assert!(
            watched.failure().to_string().contains("launcher was killed"),
            "{}",
            watched.failure()
        );
    }
    // The folder accepts another job.
    later.write("go");
    let again = Job::submit(fixture, "killed", 1, text).await;
    assert_eq!(again.watch().await.end.state, JobState::Succeeded);
}
