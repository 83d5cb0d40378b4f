//! Secrets of the launcher's environment reach the ranks, and nothing that others can read but the job's Secret.

use std::process::Command;

use neva_tests::small::{small, words};

use crate::cluster::Cluster;

const SECRET: &str = "hf_DoNotShowThisToken1234567890";

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

/// The start script compares the secret without printing it.
#[test]
fn a_secret_reaches_the_ranks_and_nothing_else() {
    let cluster = Cluster::shared();
    let space = cluster.space("secret");
    let _ = space.kubectl(&["create", "secret", "generic", "site", "--from-literal=token=from-the-site"]);
    let lines = format!(
        "env_from: [HF_TOKEN]\nenv_secrets: {{SITE_TOKEN: site/token}}\nsetup_lines: |\n  [ \"${{#HF_TOKEN}}\" = {} ] || exit 2\n  \
         [ \"$SITE_TOKEN\" = from-the-site ] || exit 2\n  echo the tokens are here",
        SECRET.len()
    );
    let executor = space.executor("kubernetes", &lines);
    let arguments = small(&space.runs(), "run", &["finetune.trainer.max_steps=5"]);
    let mut command = space.neva_run(&words(&arguments, &["--executor", &executor]));
    command.env("HF_TOKEN", SECRET).env("NEVA_LOG", "trace");
    let ended = neva_tests::run(command).with_code(0);
    assert!(!contains(ended.stdout.as_bytes()) && !contains(ended.stderr.as_bytes()));
    assert!(space.newest("run").is_some());
    let mut render = space.neva_run(&["render"]);
    render.args(words(&arguments, &["--executor", &executor])).env("HF_TOKEN", SECRET);
    let rendered = neva_tests::run(render).with_code(0);
    assert!(rendered.stdout.contains("kind: Job") && !contains(rendered.stdout.as_bytes()));

    let encoded = base64_of(SECRET);
    for kind in ["jobs", "pods", "configmaps", "services", "events"] {
        let text = space.kubectl(&["get", kind, "-o", "json"]);
        assert!(!contains(text.as_bytes()) && !text.contains(&encoded), "{kind}: {text}");
    }
    let pods = space.objects("pods");
    let pod = pods[0]["metadata"]["name"].as_str().unwrap();
    let log = space.kubectl(&["logs", pod]);
    assert!(log.contains("the tokens are here") && !contains(log.as_bytes()), "{log}");
    // Plan, logs and checkpoints of the run, and the store of the launcher.
    let mut search = Command::new("grep");
    search.args(["-rlF", "-e", SECRET]).arg(space.files.folder());
    assert_eq!(neva_tests::run(search).with_code(1).stdout, "");
    // Its own Secret has it, and goes with the job.
    let secrets = space.kubectl(&["get", "secrets", "-o", "json"]);
    assert!(secrets.contains(&encoded), "{secrets}");
    space.delete_jobs();
    neva_tests::wait_for("the garbage collector", || space.objects("secrets").is_empty().then_some(()));
}

fn base64_of(text: &str) -> String {
    let mut child = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}
