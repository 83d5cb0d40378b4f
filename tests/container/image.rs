//! The image of examples/container.

use std::process::Command;

use neva_tests::{root, run};

use crate::machine::{Machine, podman};

/// Runs a program in a container of the image.
fn in_image(image: &str, mount: &str, program: &[&str]) -> neva_tests::Ended {
    let head = ["run", "--rm", "--network=host", "--volume", mount, image];
    podman(&head.iter().chain(program).copied().collect::<Vec<_>>())
}

#[test]
fn the_image_prints_plans_and_trains_without_root() {
    let machine = Machine::new();
    let work = machine.dir.path().join("work");
    std::fs::create_dir(&work).expect("a folder");
    std::os::unix::fs::chown(&work, Some(1000), Some(1000)).expect("root");
    let mount = format!("{}:/work", work.display());
    let run = |program: &[&str]| in_image(&machine.image, &mount, program).with_code(0).stdout;
    assert!(run(&["neva-run", "--version"]).starts_with("neva-run "));
    assert_eq!(run(&["id", "-u"]).trim(), "1000");
    let plan = run(&["neva-run", "/opt/neva-run/recipes/neva_tiny.yaml", "--dry-run"]);
    assert!(plan.contains("neva_tiny"), "{plan}");
    let steps = "finetune.trainer.max_steps=3";
    let trained = run(&["neva-run", "/opt/neva-run/recipes/neva_tiny.yaml", "--set", steps]);
    assert!(trained.contains("done: 3 steps"), "{trained}");
    assert!(work.join("nemo_experiments/neva_tiny").is_dir());
}

/// The image on NVIDIA's base cannot be built without a registry; its lints pass.
#[test]
fn hadolint_accepts_both_container_files() {
    let mut command = Command::new("sh");
    let files = ["Containerfile", "Containerfile.cuda"].map(|name| root().join("examples/container").join(name));
    command.args(["-c", "exec \"$NEVA_TEST_HADOLINT\" \"$@\"", "sh"]).args(files);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
}
