//! Submissions as values.

use neva_executors::JobState;

use crate::fixture::{Fixture, Job, plan, script};

pub(crate) async fn rendering_is_pure_and_reproducible(fixture: &dyn Fixture) {
    let render = || {
        let executor = fixture.executor("exit 9");
        let ranks = executor.render(&plan(fixture, "pure", 3)).unwrap();
        let script = executor.render_script(&script(fixture, "script", "true")).unwrap();
        assert_eq!(ranks.dir, fixture.jobs().join("pure"));
        [ranks, script].map(|submission| serde_json::to_string(&submission).unwrap())
    };
    assert_eq!(render(), render());
    assert_eq!(fixture.read(&fixture.jobs().join("pure/plan.json")), "", "nothing is written");
}

/// An exported token does not appear in scripts, plans and manifests.
pub(crate) async fn the_launchers_environment_is_not_written_to_disk(fixture: &dyn Fixture) {
    let executor = fixture.executor("exit 9");
    let text = serde_json::to_string(&executor.render(&plan(fixture, "secrets", 2)).unwrap()).unwrap();
    let jobs = fixture.jobs();
    let mut checked = 0;
    for (name, value) in std::env::vars() {
        // Short values, folders that the job itself names, and settings of the test appear for other reasons.
        if value.len() > 12 && !jobs.starts_with(&value) && !name.starts_with("NEVA_TEST_") {
            checked += 1;
            assert!(!text.contains(&value), "the value of {name} is in the submission");
        }
    }
    assert!(checked > 0, "this process has an environment");
}

pub(crate) async fn odd_values_reach_the_ranks(fixture: &dyn Fixture) {
    let odd = "two words, 'single', \"double\", $HOME `id` \\ and\na new line; * é";
    let executor = fixture.executor("printf '%s' \"$Odd_Value\"");
    let mut plan = plan(fixture, "odd", 1);
    plan.env.insert("Odd_Value".into(), odd.into());
    let submission = executor.render(&plan).unwrap();
    let job = Job {
        handle: executor.submit(&submission).await.unwrap(),
        dir: submission.dir,
        fixture,
        executor,
    };
    let watched = job.watch().await;
    assert_eq!(watched.end.state, JobState::Succeeded);
    assert_eq!(watched.text(), odd);
}
