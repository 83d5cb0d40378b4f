//! Jobs that cannot start say why, and what to type instead.

use neva_tests::small::{small, words};

use crate::machine::Machine;

#[test]
fn what_cannot_start_is_explained() {
    let machine = Machine::new();
    let runs = machine.dir.path().join("runs");
    let one = small(&runs, "refused", &["finetune.trainer.max_steps=1"]);
    for (more, code, message, help) in [
        (
            "volumes: [/nowhere/at/all]",
            2,
            "mounts /nowhere/at/all",
            "does not exist on this machine",
        ),
        ("runtime: nvidia", 2, "nvidia", "runtime"),
        (
            "rank_program: /nowhere/neva-rank",
            3,
            "/nowhere/neva-rank: not found",
            "`rank_program`",
        ),
        ("user: nobody-here", 2, "refused the job", "write numbers"),
        ("ntasks_per_node: 4", 2, "`executor.ntasks_per_node` is 4", "num_gpus_per_node=4"),
        ("additional_kwargs: {mem_limit: lots}", 2, "not an amount of memory", "64g"),
        ("additional_kwargs: {remove: true}", 2, "`remove`", "docker rm"),
        (
            "additional_kwargs: {HostConfig: {Memroy: 1}}",
            2,
            "`HostConfig.Memroy`",
            "Docker API",
        ),
    ] {
        let executor = machine.executor(more);
        let ended = machine.run(&words(&one, &["--executor", &executor])).with_code(code);
        let flat = ended.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(message) && flat.contains(help), "{more}: {}", ended.stderr);
    }
    let executor = machine.executor_of("localhost/nowhere:1", "");
    let started = std::time::Instant::now();
    let ended = machine.run(&words(&one, &["--executor", &executor])).with_code(2);
    assert!(ended.stderr.contains("cannot be pulled"), "{}", ended.stderr);
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
