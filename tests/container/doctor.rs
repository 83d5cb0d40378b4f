//! `neva-run doctor --executor` of a container runtime.

use crate::machine::Machine;

#[test]
fn doctor_checks_socket_image_and_libtorch() {
    let machine = Machine::new();
    let executor = machine.executor("");
    let ended = machine.run(&["doctor", "--executor", &executor]).with_code(0);
    for words in [
        "ok      socket",
        "API 1.",
        "none: ranks compute on the CPU",
        "is on this machine",
        "in the image",
        "ok      libtorch   2.11",
    ] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    let missing = machine.executor_of("localhost/nowhere:1", "");
    let ended = machine.run(&["doctor", "--executor", &missing]).with_code(3);
    assert!(
        ended.stdout.contains("MISSING image") && ended.stdout.contains("cannot be pulled"),
        "{}",
        ended.stdout
    );
    let mut command = machine.neva_run(&["doctor", "--executor", &executor]);
    command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let ended = neva_tests::run(command).with_code(3);
    assert!(
        ended.stdout.contains("MISSING socket") && ended.stdout.contains("systemctl start docker"),
        "{}",
        ended.stdout
    );
    // No container of a check is left.
    let left = crate::machine::podman(&["ps", "--all", "--format", "{{.Names}}"]).stdout;
    assert!(!left.contains("neva-run-doctor"), "{left}");
}
