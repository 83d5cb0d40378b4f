//! Ways to the API server: contexts, exec plugins, and the service account of a pod.

use std::{fs, os::unix::fs::PermissionsExt as _};

use neva_tests::{
    root, run,
    small::{small, words},
    wait_for,
};

use crate::cluster::{Cluster, IMAGE, Space};

/// Rules that a job needs, as `neva-run doctor` prints them.
pub(crate) const RULES: &str = "[{apiGroups: [batch], resources: [jobs], verbs: [create, get, list, watch, patch, delete]}, \
     {apiGroups: [''], resources: [pods], verbs: [list, watch, patch, delete]}, {apiGroups: [''], resources: [pods/log], verbs: [get]}, \
     {apiGroups: [''], resources: [configmaps, services, secrets], verbs: [create, patch]}, \
     {apiGroups: [''], resources: [events], verbs: [list]}]";

fn arguments(space: &Space<'_>, name: &str, executor: &str) -> Vec<String> {
    let mut arguments = small(&space.runs(), name, &["finetune.trainer.max_steps=20"]);
    arguments.extend(["--executor".to_owned(), executor.to_owned()]);
    arguments
}

/// Tokens of an exec plugin that live for some seconds; the job takes longer than one.
#[test]
fn an_exec_plugin_gives_tokens() {
    let cluster = Cluster::shared();
    let space = cluster.space("plugin");
    let _ = space.account("user", RULES);
    let state = cluster.kubeconfig();
    let calls = space.dir.path().join("calls");
    let plugin = space.write(
        "plugin",
        &format!(
            "#!/bin/sh\necho call >>{}\ntoken=$({}/tests/kubernetes/short-token {} {} user 20) || exit 1\n\
             printf '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"%s\",\
             \"expirationTimestamp\":\"%s\"}}}}' \"$token\" \"$(date -u -d '+20 seconds' +%Y-%m-%dT%H:%M:%SZ)\"\n",
            calls.display(),
            root().display(),
            state.parent().unwrap().display(),
            space.name
        ),
    );
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let text = fs::read_to_string(&state).unwrap();
    let user = format!(
        "users: [{{name: user, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}, interactiveMode: Never}}}}}}]"
    );
    let lines: Vec<_> = text
        .lines()
        .map(|line| if line.starts_with("users:") { &user } else { line })
        .collect();
    // The context is not the current one, and names the namespace.
    let text = lines
        .join("\n")
        .replace("namespace: default", &format!("namespace: {}", space.name))
        .replace("current-context: test", "current-context: none");
    let kubeconfig = space.write("plugin.kubeconfig", &text);
    let executor = space.executor("plugin", "context: test");
    let without = fs::read_to_string(&executor).unwrap();
    let without: String = without
        .lines()
        .filter(|line| !line.starts_with("namespace:"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&executor, without).unwrap();
    let mut arguments = arguments(&space, "run", &executor);
    arguments.extend(["--set".to_owned(), "finetune.trainer.max_steps=1000".to_owned()]);
    let mut command = space.neva_run(&words(&arguments, &[]));
    command.env("KUBECONFIG", kubeconfig);
    let ended = run(command).with_code(0);
    assert!(ended.stdout.contains("done: 1000 steps"), "{}", ended.stdout);
    assert_eq!(space.objects("jobs").len(), 1);
    assert!(!fs::read_to_string(calls).unwrap().is_empty());
}

/// The launcher is a pod itself, with a service account.
#[test]
fn a_launcher_in_a_pod_uses_its_service_account() {
    let cluster = Cluster::shared();
    let space = cluster.space("inside");
    let _ = space.account("launcher", RULES);
    let executor = space.executor("kubernetes", "");
    let text = fs::read_to_string(&executor).unwrap();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("namespace:"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&executor, text).unwrap();
    fs::create_dir(space.dir.path().join("recipes")).unwrap();
    fs::copy(
        root().join("recipes/neva_tiny.yaml"),
        space.dir.path().join("recipes/neva_tiny.yaml"),
    )
    .unwrap();
    let words: Vec<_> = arguments(&space, "run", &executor).iter().map(|word| format!("{word:?}")).collect();
    let api = fs::read_to_string(cluster.kubeconfig()).unwrap();
    let port = api
        .split("https://127.0.0.1:")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let folder = cluster.folder();
    // Without kube-proxy the address of the service `kubernetes` leads nowhere.
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: launcher, namespace: {}}}\nspec:\n  serviceAccountName: launcher\n  hostNetwork: true\n  \
         restartPolicy: Never\n  containers:\n  - name: launcher\n    image: {IMAGE}\n    workingDir: {}\n    \
         command: [neva-run, {}]\n    env:\n    - {{name: KUBERNETES_SERVICE_HOST, value: 127.0.0.1}}\n    \
         - {{name: KUBERNETES_SERVICE_PORT, value: \"{port}\"}}\n    - {{name: NEVA_RUN_HOME, value: {}/inside}}\n    \
         volumeMounts: [{{name: shared, mountPath: {folder}}}]\n  volumes: [{{name: shared, hostPath: {{path: {folder}}}}}]\n",
        space.name,
        space.dir.path().display(),
        words.join(", "),
        space.dir.path().display(),
        folder = folder.display(),
    ));
    let phase = wait_for("the end of the launcher", || {
        let phase = space.kubectl(&["get", "pod", "launcher", "-o", "jsonpath={.status.phase}"]);
        ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
    });
    let log = space.kubectl(&["logs", "launcher"]);
    assert_eq!(phase, "Succeeded", "{log}");
    assert!(log.contains("done: 20 steps"), "{log}");
}
