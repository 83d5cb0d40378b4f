//! Manifests are accepted by the real API server, with strict validation of fields.

use neva_tests::{
    root, run,
    small::{small, words},
};

use crate::{cluster::Cluster, training::TWO_BY_TWO};

/// Objects of Custom Resource Definitions, which the test cluster does not have.
const CUSTOM: [&str; 2] = ["kind: JobSet", "kind: TrainJob"];

#[test]
fn the_api_server_accepts_every_golden_manifest() {
    let cluster = Cluster::shared();
    let space = cluster.space("golden");
    let folder = root().join("executors/tests/kubernetes_manifests/golden");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut accepted = 0;
    for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let text = std::fs::read_to_string(&file).unwrap();
        if CUSTOM.iter().any(|kind| text.contains(kind)) {
            continue;
        }
        // The namespace of a golden file does not exist here.
        let lines = text.lines().map(|line| match line.trim().strip_prefix("namespace: ") {
            Some(_) => format!("{}namespace: {}", &line[..line.len() - line.trim_start().len()], space.name),
            None => line.to_owned(),
        });
        let here = space.write("manifest.yaml", &lines.collect::<Vec<_>>().join("\n"));
        let _ = space.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &here]);
        accepted += 1;
    }
    assert!(accepted >= 3, "{accepted} files");
}

/// What `neva-run render` prints runs when kubectl applies it, without a launcher.
#[test]
fn kubectl_applies_what_render_prints() {
    let cluster = Cluster::shared();
    let space = cluster.space("render");
    let executor = space.executor("kubernetes", "");
    let arguments = small(
        &space.runs(),
        "run",
        &[&["finetune.trainer.max_steps=20"][..], &TWO_BY_TWO].concat(),
    );
    let mut command = space.neva_run(&["render"]);
    command.args(words(&arguments, &["--executor", &executor]));
    let rendered = run(command).with_code(0).stdout;
    let file = space.write("rendered.yaml", &rendered);
    let _ = space.kubectl(&["apply", "--validate=strict", "-f", &file]);
    let _ = space.kubectl(&["wait", "--for=condition=Complete", "jobs", "--all", "--timeout=120s"]);
}
