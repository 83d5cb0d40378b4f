//! Output of ranks.

use neva_executors::{JobState, JobStatus, WatchFrom};

use crate::fixture::{Fixture, Job, Watched};

pub(crate) async fn output_is_reported_whole_and_in_order(fixture: &dyn Fixture) {
    let job = Job::submit(
        fixture,
        "long",
        1,
        "i=0; while [ $i -lt 20000 ]; do echo \"line $i\"; i=$((i+1)); done; printf end",
    )
    .await;
    let watched = job.watch().await;
    let lines: String = (0..20000).map(|line| format!("line {line}\n")).collect();
    assert_eq!(watched.text(), lines + "end");
    // The same in bounded chunks.
    let (mut bytes, mut offset, mut chunks) = (Vec::new(), 0, 0);
    loop {
        let chunk = job.executor.logs(&job.handle, 0, offset).await.unwrap();
        if chunk.bytes.is_empty() {
            break;
        }
        (offset, chunks) = (chunk.next, chunks + 1);
        bytes.extend(chunk.bytes);
    }
    assert_eq!(bytes, watched.text().as_bytes());
    assert!(chunks > 1);
}

pub(crate) async fn a_watch_starts_at_its_offset(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "offset", 1, "echo 0123456789").await;
    assert_eq!(job.watch().await.text(), "0123456789\n");
    let from = WatchFrom([(0, 4)].into());
    let watched = Watched::of(&*job.executor, &job.handle, from).await;
    assert_eq!(watched.text(), "456789\n");
}

pub(crate) async fn a_watch_may_follow_several_ranks_or_none(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "ranks", 3, "echo \"I am $RANK\"").await;
    let both = Watched::of(&*job.executor, &job.handle, WatchFrom([(1, 0), (2, 0)].into())).await;
    assert_eq!(both.output, [(1, "I am 1\n".to_owned()), (2, "I am 2\n".to_owned())].into());
    let quiet = Watched::of(&*job.executor, &job.handle, WatchFrom::none()).await;
    assert!(quiet.output.is_empty());
    assert_eq!(quiet.end.state, JobState::Succeeded);
}

pub(crate) async fn two_watches_see_the_same(fixture: &dyn Fixture) {
    let text = "echo before; until [ -e go ]; do sleep 0.02; done; echo after";
    let job = Job::submit(fixture, "two", 1, text).await;
    let other = fixture.executor("exit 9");
    // The job goes on once a watch has seen that it runs.
    let go = |status: &JobStatus| {
        if status.state == JobState::Running {
            job.write("go");
        }
    };
    let (one, two) = tokio::join!(
        Watched::of_each(&*job.executor, &job.handle, WatchFrom::rank0(), go),
        Watched::of(&*other, &job.handle, WatchFrom::rank0())
    );
    assert_eq!((one.text(), two.text()), ("before\nafter\n", "before\nafter\n"));
    assert_eq!((one.end.state, two.end.state), (JobState::Succeeded, JobState::Succeeded));
}

pub(crate) async fn a_watch_that_starts_late_sees_everything(fixture: &dyn Fixture) {
    let job = Job::submit(fixture, "late", 1, "echo all of it; exit 3").await;
    assert_eq!(job.watch().await.failure().class, 3);
    let later = fixture.executor("exit 9");
    let watched = Watched::of(&*later, &job.handle, WatchFrom::rank0()).await;
    assert_eq!(watched.text(), "all of it\n");
    assert_eq!(watched.failure().class, 3);
    assert_eq!(watched.statuses.len(), 1, "the end alone: {:?}", watched.statuses);
}
