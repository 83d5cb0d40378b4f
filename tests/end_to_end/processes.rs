//! Ranks as processes.

use neva_tests::{finish, free_port, metrics, neva_run, run, run_folder, start, wait_for};
use std::path::Path;
use std::process::Command;

/// Returns the losses of `neva_tiny` with these settings.
fn losses(dir: &Path, name: &str, settings: &[&str]) -> Vec<f64> {
    let (dir_setting, name_setting) = (format!("dir={}", dir.display()), format!("name={name}"));
    let mut arguments = vec!["recipes/neva_tiny.yaml", "--set", &dir_setting, "--set", &name_setting];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let _ = run(neva_run(&arguments)).with_code(0);
    metrics(&run_folder(dir, name), "reduced_train_loss")
}

#[track_caller]
fn close(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (step, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs(), "{what}: step {step}: {a} and {b}");
    }
}

#[test]
fn two_processes_train_like_one() {
    let dir = tempfile::tempdir().unwrap();
    let steps = "finetune.trainer.max_steps=10";
    let one = losses(dir.path(), "one", &[steps]);
    assert_eq!(one.len(), 10);
    assert_eq!(one, losses(dir.path(), "again", &[steps]), "the same recipe and seed, twice");
    close(
        "data parallel",
        &losses(dir.path(), "dp2", &[steps, "num_gpus_per_node=2"]),
        &one,
        1e-6,
    );
    let tp2 = [
        steps,
        "num_gpus_per_node=2",
        "finetune.trainer.strategy.tensor_model_parallel_size=2",
    ];
    close("tensor parallel", &losses(dir.path(), "tp2", &tp2), &one, 1e-5);
    let sequence = [tp2.as_slice(), &["finetune.trainer.strategy.sequence_parallel=true"]].concat();
    close("sequence parallel", &losses(dir.path(), "sp", &sequence), &one, 1e-5);
    let cp2 = [steps, "num_gpus_per_node=2", "finetune.trainer.strategy.context_parallel_size=2"];
    close("context parallel", &losses(dir.path(), "cp2", &cp2), &one, 1e-5);
    let gathered = [cp2.as_slice(), &["finetune.trainer.strategy.cp_comm_type=all_gather"]].concat();
    close("gathered keys", &losses(dir.path(), "gathered", &gathered), &one, 1e-5);
}

#[test]
fn packed_samples_train_like_separate_rows() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ["finetune.trainer.max_steps=5", "finetune.data.micro_batch_size=4"];
    let one = losses(dir.path(), "one", &settings);
    let packed = [
        settings.as_slice(),
        &["finetune.data.use_packed_sequence=true", "finetune.data.seq_length*=4"],
    ]
    .concat();
    close("packed", &losses(dir.path(), "packed", &packed), &one, 1e-5);
    let cp2 = ["num_gpus_per_node=2", "finetune.trainer.strategy.context_parallel_size=2"];
    close(
        "packed, context parallel",
        &losses(dir.path(), "cp2", &[packed.as_slice(), &cp2].concat()),
        &one,
        1e-5,
    );
}

#[test]
fn pipeline_processes_train_like_one() {
    for peft in ["none", "lora"] {
        check_pipelines(&format!("peft_scheme={peft}"));
    }
}

/// Checks pipelines of the whole model or of adapters, as processes.
fn check_pipelines(peft: &str) {
    let dir = tempfile::tempdir().unwrap();
    let steps = "finetune.trainer.max_steps=5";
    let one = losses(dir.path(), "one", &[steps, peft]);
    let cases: [(&str, u32, &[&str]); 3] = [
        ("pp2", 2, &["pipeline_model_parallel_size=2"]),
        (
            "vpp2",
            2,
            &["pipeline_model_parallel_size=2", "virtual_pipeline_model_parallel_size=2"],
        ),
        ("tp2pp2", 4, &["tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"]),
    ];
    for (name, ranks, strategy) in cases {
        let mut settings = vec![steps.to_owned(), peft.to_owned(), format!("num_gpus_per_node={ranks}")];
        settings.extend(strategy.iter().map(|setting| format!("finetune.trainer.strategy.{setting}")));
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        close(&format!("{name}, {peft}"), &losses(dir.path(), name, &settings), &one, 1e-5);
    }
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let whole = losses(
        dir.path(),
        "whole",
        &["finetune.trainer.max_steps=8", "finetune.log.ckpt.every_n_train_steps=3"],
    );
    let checkpoints = run_folder(dir.path(), "whole").join("checkpoints");
    let third = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("--step=2-"));
    let from = format!("finetune.resume.resume_from_path={}", third.unwrap().display());
    let rest = losses(dir.path(), "rest", &["finetune.trainer.max_steps=8", &from]);
    assert_eq!(rest, whole[3..]);
}

/// Both start the same program once per rank, with its rank in the environment.
#[test]
fn processes_of_torchrun_or_srun_are_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let one = losses(dir.path(), "one", &["finetune.trainer.max_steps=3"]);
    let torchrun = [
        ("LOCAL_WORLD_SIZE", "2"),
        ("WORLD_SIZE", "2"),
        ("RANK", "{rank}"),
        ("LOCAL_RANK", "{rank}"),
        ("MASTER_ADDR", "127.0.0.1"),
    ];
    // Variables of Slurm 22.05 for `srun --nodes=1 --ntasks=2`.
    let srun = [
        ("SLURM_STEP_TASKS_PER_NODE", "2"),
        ("SLURM_STEP_NUM_TASKS", "2"),
        ("SLURM_PROCID", "{rank}"),
        ("SLURM_LOCALID", "{rank}"),
        ("SLURM_STEP_NODELIST", "localhost"),
    ];
    for (name, variables) in [("torchrun", torchrun), ("srun", srun)] {
        let port = free_port();
        let at = format!("dir={}", dir.path().display());
        let named = format!("name={name}");
        let ranks = ["0", "1"].map(|rank| {
            let settings = [&named, "num_gpus_per_node=2", "finetune.trainer.max_steps=3", at.as_str()];
            let mut arguments = vec!["recipes/neva_tiny.yaml", "--direct"];
            arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
            let mut command = neva_run(&arguments);
            command.envs(variables.map(|(variable, value)| (variable, value.replace("{rank}", rank))));
            command.env("MASTER_PORT", port.to_string());
            start(command)
        });
        for rank in ranks {
            let _ = finish(rank).with_code(0);
        }
        // Both wrote to one folder, rank 0's.
        assert_eq!(std::fs::read_dir(dir.path().join(name)).unwrap().count(), 1);
        let losses = metrics(&run_folder(dir.path(), name), "reduced_train_loss");
        close(name, &losses, &one, 1e-6);
    }
}

#[test]
fn a_killed_rank_ends_the_run_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let at = format!("dir={}", dir.path().display());
    let settings = [
        "name=killed",
        "num_gpus_per_node=2",
        "finetune.trainer.max_steps=100000",
        "finetune.log.ckpt.every_n_train_steps=1",
        &at,
    ];
    let mut arguments = vec!["recipes/neva_tiny.yaml"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let launcher = start(neva_run(&arguments));
    let checkpoints = wait_for("a checkpoint", || {
        let runs = std::fs::read_dir(dir.path().join("killed")).ok()?;
        let checkpoints = runs.last()?.ok()?.path().join("checkpoints");
        let visible = std::fs::read_dir(&checkpoints)
            .ok()?
            .filter_map(Result::ok)
            .any(|entry| !entry.file_name().to_string_lossy().starts_with('.') && entry.path().join("checkpoint.json").is_file());
        visible.then_some(checkpoints)
    });
    let ranks = Command::new("pgrep")
        .args(["-f", &format!("neva-rank train --plan {}", dir.path().display())])
        .output()
        .unwrap();
    let ranks = String::from_utf8_lossy(&ranks.stdout).into_owned();
    let second = ranks.split_whitespace().last().expect("ranks are running");
    assert!(Command::new("kill").args(["-KILL", second]).status().unwrap().success());

    let ended = finish(launcher).with_code(1);
    assert!(ended.stderr.contains("SIGKILL"), "{}", ended.stderr);
    let whole = std::fs::read_dir(&checkpoints)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("checkpoint.json").is_file());
    let newest = whole
        .max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap())
        .expect("a checkpoint is left");
    let from = format!("finetune.resume.resume_from_path={}", newest.display());
    let steps = newest
        .file_name()
        .unwrap()
        .to_string_lossy()
        .split("step=")
        .nth(1)
        .unwrap()
        .split('-')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        + 2;
    assert_eq!(
        losses(dir.path(), "resumed", &[&format!("finetune.trainer.max_steps={steps}"), &from]).len(),
        1
    );
}
