//! Ways to the API server: contexts, exec plugins, and the service account of a pod.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    thread::sleep,
    time::{Duration, Instant},
};

use neva_tests::{
    root,
    small::{small, words},
    wait_for,
};

use crate::{
    cluster::Cluster,
    output::{check_once, printing},
    space::Space,
    watched::Watched,
};

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

/// Life of a token of the exec plugin.
const TOKEN: Duration = Duration::from_secs(20);

/// The job takes longer than a token lives.
#[test]
fn an_exec_plugin_gives_tokens() {
    let cluster = Cluster::shared();
    let space = cluster.space("plugin");
    let _ = space.account("user", RULES);
    let calls = space.dir.path().join("calls");
    let plugin = space.write(
        "plugin",
        &format!(
            "#!/bin/sh\necho call >>{}\ntoken=$({}/tests/kubernetes/short-token {} {} user {seconds}) || exit 1\n\
             printf '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"%s\",\
             \"expirationTimestamp\":\"%s\"}}}}' \"$token\" \"$(date -u -d '+{seconds} seconds' +%Y-%m-%dT%H:%M:%SZ)\"\n",
            calls.display(),
            root().display(),
            cluster.state().display(),
            space.name,
            seconds = TOKEN.as_secs(),
        ),
    );
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let text = fs::read_to_string(cluster.kubeconfig()).unwrap();
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
    let started = Instant::now();
    let mut arguments = printing(&space, "run", 1_000_000);
    arguments.extend(["--executor".to_owned(), executor]);
    let mut command = space.neva_run(&words(&arguments, &[]));
    command.env("KUBECONFIG", kubeconfig);
    let launcher = Watched::start(command);
    let run = wait_for("a run", || space.newest("run"));
    wait_for("steps", || (space.steps(&run) > 10).then_some(()));
    // The first token is of no use any more: the request to stop needs another one.
    sleep((TOKEN + Duration::from_secs(1)).saturating_sub(started.elapsed()));
    let ended = launcher.stop().with_code(1);
    assert!(check_once(&ended) > 10, "{}", ended.stderr);
    assert_eq!(space.objects("jobs").len(), 1);
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.lines().count() > 1, "the plugin is called again");
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
         restartPolicy: Never\n  containers:\n  - name: launcher\n    image: {}\n    workingDir: {}\n    \
         command: [neva-run, {}]\n    env:\n    - {{name: KUBERNETES_SERVICE_HOST, value: 127.0.0.1}}\n    \
         - {{name: KUBERNETES_SERVICE_PORT, value: \"{port}\"}}\n    - {{name: NEVA_RUN_HOME, value: {}/inside}}\n    \
         volumeMounts: [{{name: shared, mountPath: {folder}}}]\n  volumes: [{{name: shared, hostPath: {{path: {folder}}}}}]\n",
        space.name,
        cluster.image,
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
