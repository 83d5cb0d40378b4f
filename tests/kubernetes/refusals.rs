//! Jobs that cannot start: reported within seconds, with the reason and what to do.

use std::time::{Duration, Instant};

use neva_tests::{
    small::{small, words},
    wait_for,
};

use crate::{
    cluster::{Cluster, Space},
    watched::{Watched, plain},
};

/// Time after which a problem that the cluster knows must be printed.
const SOON: Duration = Duration::from_secs(10);

/// Starts a job with a setting of the executor, waits until the events of the cluster contain `event`, and then for the launcher's
/// words.
#[track_caller]
fn check(space: &Space<'_>, name: &str, setting: &str, event: &str, texts: &[&str]) {
    let executor = space.executor("kubernetes", "");
    let arguments = small(&space.runs(), name, &["finetune.trainer.max_steps=1", setting]);
    let mut launcher = Watched::start(space.neva_run(&words(&arguments, &["--executor", &executor])));
    wait_for(event, || {
        // YAML would break long messages into lines.
        let messages = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"]);
        messages.contains(event).then_some(())
    });
    launcher.wait(texts, Instant::now() + SOON);
    drop(launcher);
    let _ = space.kubectl(&["delete", "jobs", "--all"]);
}

#[test]
fn a_job_that_cannot_start_says_why() {
    let cluster = Cluster::shared();
    let space = cluster.space("refused");
    check(
        &space,
        "image",
        "executor.image=registry.invalid/no/such:1",
        "Failed to pull image",
        &["the image registry.invalid/no/such:1 cannot be pulled", "correct `image`"],
    );
    check(
        &space,
        "never",
        "executor.image=neva-run.test/absent:1",
        "neva-run.test/absent:1",
        &["neva-run.test/absent:1", "`image`"],
    );
    check(
        &space,
        "device",
        "executor.limits={example.org/gpu: 8}",
        "Insufficient example.org/gpu",
        &["Insufficient example.org/gpu", "`limits`"],
    );
    check(
        &space,
        "memory",
        "executor.requests={memory: 900Gi}",
        "Insufficient memory",
        &["Insufficient memory", "`requests`"],
    );
    check(
        &space,
        "selector",
        "executor.node_selector={zone: nowhere}",
        "node affinity/selector",
        &["node affinity/selector", "`node_selector`"],
    );
    let folder = cluster.folder();
    check(
        &space,
        "claim",
        &format!("executor.volumes=[{{mount_path: {}, claim: absent}}]", folder.display()),
        "persistentvolumeclaim",
        &["persistentvolumeclaim \"absent\" not found", "create the claim"],
    );
    check(
        &space,
        "account",
        "executor.service_account=absent",
        "error looking up service account",
        &["serviceaccount \"absent\" not found", "`service_account`"],
    );
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
fn refused(space: &Space<'_>, kubeconfig: &std::path::Path, lines: &str, code: i32, texts: &[&str]) {
    let executor = space.executor("refused", lines);
    let arguments = small(&space.runs(), "refused", &["finetune.trainer.max_steps=1"]);
    let mut command = space.neva_run(&words(&arguments, &["--executor", &executor]));
    command.env("KUBECONFIG", kubeconfig);
    let started = Instant::now();
    let ended = neva_tests::run(command).with_code(code);
    assert!(started.elapsed() < SOON * 2, "{:?}", started.elapsed());
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
