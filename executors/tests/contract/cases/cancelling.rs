//! Cancel requests.

use neva_executors::JobState;
use neva_schemas::StopSignal;

use crate::fixture::{Fixture, Job};

const SAVES_ON_TERM: &str = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done";

pub(crate) async fn cancelling_ends_the_job(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "cancel", 2, SAVES_ON_TERM).await;
    for rank in 0..2 {
        job.wait_for(&format!("logs/rank{rank}.log"), "ready").await;
    }
    job.executor.cancel(&job.handle, StopSignal::Terminate).await.unwrap();
    let watched = job.watch().await;
    assert_eq!(watched.end.state, JobState::Cancelled);
    // The shell may also report its `sleep`.
    let text = watched.text();
    assert!(text.starts_with("ready\n") && text.ends_with("saved\n"), "{text}");
}

pub(crate) async fn cancelling_twice_kills_it(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "stubborn", 1, "trap '' TERM; echo ready; while :; do sleep 0.05; done").await;
    job.wait_for("logs/rank0.log", "ready").await;
    for _ in 0..2 {
        job.executor.cancel(&job.handle, StopSignal::Terminate).await.unwrap();
    }
    assert_eq!(job.watch().await.end.state, JobState::Cancelled);
}

pub(crate) async fn cancelling_works_from_a_handle_alone(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "handle", 1, SAVES_ON_TERM).await;
    job.wait_for("logs/rank0.log", "ready").await;
    fixture.executor("exit 9").cancel(&job.handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(job.watch().await.end.state, JobState::Cancelled);
    // A late request is harmless.
    job.executor.cancel(&job.handle, StopSignal::Terminate).await.unwrap();
    assert_eq!(job.executor.status(&job.handle).await.unwrap().state, JobState::Cancelled);
}
