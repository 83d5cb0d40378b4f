//! What an administrator denies: accounts, tokens and quotas.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use neva_tests::small::{small, words};

use crate::{
    cluster::Cluster,
    refusals::{SOON, check},
    space::Space,
    watched::{Watched, plain},
};

#[test]
fn a_quota_is_named() {
    let cluster = Cluster::shared();
    let space = cluster.space("quota");
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: ResourceQuota, metadata: {{name: none, namespace: {}}}, spec: {{hard: {{pods: 0}}}}}}",
        space.name
    ));
    check(
        &space,
        "quota",
        "executor.termination_grace_period_seconds=5",
        "exceeded quota",
        &["exceeded quota: none", "have the quota of the namespace raised"],
    );
}

/// Errors that come at once, with the exit code.
fn refused(space: &Space<'_>, kubeconfig: &Path, lines: &str, code: i32, texts: &[&str]) {
    let executor = space.executor("refused", lines);
    let arguments = small(&space.runs(), "refused", &["finetune.trainer.max_steps=1"]);
    let mut command = space.neva_run(&words(&arguments, &["--executor", &executor]));
    command.env("KUBECONFIG", kubeconfig);
    let started = Instant::now();
    let ended = neva_tests::run(command).with_code(code);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let text = plain(&ended.stderr);
    assert!(texts.iter().all(|expected| text.contains(expected)), "{texts:?}: {}", ended.stderr);
    assert!(space.objects("jobs").is_empty());
}

#[test]
fn an_account_that_may_not_is_told_what_it_needs() {
    let cluster = Cluster::shared();
    let space = cluster.space("denied");
    let reader = space.account("reader", "[{apiGroups: ['', batch], resources: ['*'], verbs: [get, list, watch]}]");
    refused(&space, &reader, "", 3, &["forbidden", "reader", "doctor"]);
    // A token that the server never gave, and one that has expired.
    let stranger = space.with_token("stranger", "not-a-token");
    refused(&space, &stranger, "", 3, &["Unauthorized"]);
    let expired = space.with_token("expired", &cluster.token(&space.name, "reader", 1));
    std::thread::sleep(Duration::from_secs(2));
    refused(&space, &expired, "", 3, &["Unauthorized"]);
    // No server: the launcher goes on trying, and says so.
    let text = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
    let port = text.split("https://127.0.0.1:").nth(1).unwrap().split('"').next().unwrap();
    let away = space.write("away.kubeconfig", &text.replace(port, "1"));
    let executor = space.executor("away", "");
    let arguments = small(&space.runs(), "away", &["finetune.trainer.max_steps=1"]);
    let mut command = space.neva_run(&words(&arguments, &["--executor", &executor]));
    command.env("KUBECONFIG", away);
    let mut launcher = Watched::start(command);
    launcher.wait(&["no connection to the API server 127.0.0.1:1"], Instant::now() + SOON);
}
