//! Jobs that cannot start: reported within seconds, with the reason and what to do.

use std::time::{Duration, Instant};

use neva_tests::{
    small::{small, words},
    wait_for,
};

use crate::{cluster::Cluster, space::Space, watched::Watched};

/// Time after which a problem that the cluster knows must be printed.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Starts a job with a setting of the executor, waits until its events contain `event`, and then for the launcher's words.
#[track_caller]
pub(crate) fn check(space: &Space<'_>, name: &str, setting: &str, event: &str, texts: &[&str]) {
    let executor = space.executor("kubernetes", "");
    let arguments = small(&space.runs(), name, &["finetune.trainer.max_steps=1", setting]);
    let mut launcher = Watched::start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    wait_for(event, || {
        let is_known = |known: &serde_json::Value| known["message"].as_str().is_some_and(|message| message.contains(event));
        space.events().iter().any(is_known).then_some(())
    });
    launcher.wait(texts, Instant::now() + SOON);
    drop(launcher);
    space.delete_jobs();
}

#[test]
fn a_job_that_cannot_start_says_why() {
    let cluster = Cluster::any();
    let space = cluster.space("refused");
    let claim = format!("executor.volumes=[{{mount_path: {}, claim: absent}}]", cluster.folder().display());
    for (name, setting, event, texts) in [
        (
            "image",
            "executor.image=registry.invalid/no/such:1",
            "Failed to pull image",
            ["the image registry.invalid/no/such:1 cannot be pulled", "correct `image`"],
        ),
        (
            "absent",
            "executor.image=neva-run.test/absent:1",
            "neva-run.test/absent:1",
            ["neva-run.test/absent:1", "`image`"],
        ),
        (
            "device",
            "executor.limits={example.org/gpu: 8}",
            "Insufficient example.org/gpu",
            ["Insufficient example.org/gpu", "`limits`"],
        ),
        (
            "memory",
            "executor.requests={memory: 900Ti}",
            "Insufficient memory",
            ["Insufficient memory", "`requests`"],
        ),
        (
            "selector",
            "executor.node_selector={neva-run.test/zone: nowhere}",
            "node affinity/selector",
            ["node affinity/selector", "`node_selector`"],
        ),
        (
            "claim",
            claim.as_str(),
            "persistentvolumeclaim",
            ["persistentvolumeclaim \"absent\" not found", "create the claim"],
        ),
        (
            "account",
            "executor.service_account=absent",
            "error looking up service account",
            ["serviceaccount \"absent\" not found", "`service_account`"],
        ),
    ] {
        check(&space, name, setting, event, &texts);
    }
}
