//! `examples/energon.yaml`: training from an Energon dataset, and the same losses after a resume with other ranks and workers.

use neva_tests::{DEADLINE, finish_within, metrics, neva_run, root, run, run_folder, start};
use std::path::Path;

const RECIPE: &str = "examples/energon.yaml";

/// Runs the example in `dir` until step `steps`, and returns the losses of the steps that it made.
fn train(dir: &Path, steps: u64, ranks: u64, more: &[&str]) -> Vec<f64> {
    let settings = [
        format!("dir={}", dir.display()),
        format!("finetune.trainer.max_steps={steps}"),
        format!("num_gpus_per_node={ranks}"),
        "finetune.log.tensorboard=false".to_owned(),
        "finetune.trainer.threads_per_rank=1".to_owned(),
        // The schedule must not depend on the number of steps.
        "finetune.optim.lr_scheduler.min_lr=2e-3".to_owned(),
        "finetune.optim.lr_scheduler.warmup_steps=0".to_owned(),
    ];
    let mut arguments = vec![RECIPE];
    for setting in settings.iter().map(String::as_str).chain(more.iter().copied()) {
        arguments.extend(["--set", setting]);
    }
    let _ = finish_within(start(neva_run(&arguments)), 2 * DEADLINE).with_code(0);
    metrics(&run_folder(dir, "energon"), "reduced_train_loss")
}

#[test]
fn a_resume_with_other_ranks_and_workers_has_the_same_losses() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = train(whole.path(), 6, 2, &[]);
    assert_eq!(expected.len(), 6);
    let mut losses = train(cut.path(), 3, 2, &[]);
    let resume = [
        "finetune.resume.resume_if_exists=true",
        "finetune.data.num_workers=3",
        "finetune.data.micro_batch_size=2",
    ];
    losses.extend(train(cut.path(), 6, 1, &resume));
    assert_eq!(losses.len(), 6);
    for (step, (loss, expected)) in losses.iter().zip(&expected).enumerate() {
        assert!(
            (loss - expected).abs() < 1e-4 * expected.abs(),
            "step {step}: {losses:?}, expected {expected:?}"
        );
    }
}

#[test]
fn a_packed_set_trains_with_the_same_losses_on_other_ranks_after_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("packed.bin");
    let packed = format!("finetune.data.packed_set={}", file.display());
    let missing = run(neva_run(&[RECIPE, "--set", &packed])).with_code(2);
    assert!(missing.stderr.contains("neva-run data pack"), "{}", missing.stderr);
    let ended = run(neva_run(&["data", "pack", RECIPE, "--set", &packed])).with_code(0);
    assert!(ended.stdout.starts_with("16 samples in "), "{}", ended.stdout);
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let expected = train(&whole, 4, 2, &[&packed]);
    let mut losses = train(&cut, 2, 2, &[&packed]);
    let resume = ["finetune.resume.resume_if_exists=true", "finetune.data.num_workers=0", &packed];
    losses.extend(train(&cut, 4, 1, &resume));
    assert_eq!(losses.len(), 4);
    for (loss, expected) in losses.iter().zip(&expected) {
        assert!((loss - expected).abs() < 1e-4 * expected.abs(), "{losses:?}, expected {expected:?}");
    }
    let epochs = train(&folder.path().join("epochs"), 100, 1, &[&packed, "finetune.trainer.max_epochs=1"]);
    assert!((1..=3).contains(&epochs.len()), "{epochs:?}");
    let ended = run(neva_run(&[
        RECIPE,
        "--set",
        &packed,
        "--set",
        "finetune.data.seq_length=256",
        "--set",
        &format!("dir={}", folder.path().display()),
    ]))
    .with_code(2);
    assert!(ended.stderr.contains("neva-run data pack"), "{}", ended.stderr);
}

#[test]
fn epochs_of_rows_packed_over_a_buffer_end_with_their_last_sample() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |name: &str| folder.path().join(name);
    let epochs = "finetune.trainer.max_epochs=2";
    let losses = train(&dir("one"), 100, 1, &[epochs]);
    // Two epochs of 16 samples, and what fills the last step.
    let samples = metrics(&run_folder(&dir("one"), "energon"), "samples");
    let (all, before): (f64, f64) = (samples.iter().sum(), samples[..samples.len() - 1].iter().sum());
    assert!(all >= 32.0 && before < 32.0, "{samples:?}");
    // Ranks that measure the samples together, and a run that resumes in the middle, end with the same step.
    assert_eq!(train(&dir("two"), 100, 2, &[epochs]).len(), losses.len());
    let cut = train(&dir("cut"), 3, 2, &[epochs]).len();
    let resumed = train(&dir("cut"), 100, 1, &[epochs, "finetune.resume.resume_if_exists=true"]).len();
    assert_eq!((cut, cut + resumed), (3, losses.len()));
}

#[test]
fn metrics_and_effects_show_packing_and_the_wait_for_data() {
    let dir = tempfile::tempdir().unwrap();
    let losses = train(dir.path(), 3, 1, &["finetune.data.prefetch_factor=1"]);
    assert_eq!(losses.len(), 3);
    let folder = run_folder(dir.path(), "energon");
    let fill = metrics(&folder, "row_fill");
    assert!(fill.len() == 3 && fill.iter().all(|fill| (0.3..=1.0).contains(fill)), "{fill:?}");
    assert!(metrics(&folder, "samples").iter().all(|samples| *samples > 2.0));
    assert!(metrics(&folder, "images/s").iter().all(|speed| *speed > 0.0));
    assert!(metrics(&folder, "data_wait in s").iter().all(|wait| *wait >= 0.0));
    let effects = std::fs::read_to_string(folder.join("effects.json")).unwrap();
    let effects: serde_json::Value = serde_json::from_str(&effects).unwrap();
    let packing = &effects["packing"];
    assert_eq!(packing["rows"], 6.0, "{packing}");
    assert_eq!(
        packing["samples"].as_f64(),
        Some(metrics(&folder, "samples").iter().sum()),
        "{packing}"
    );
}

#[test]
fn check_and_inspect_read_energon_datasets() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("photos");
    copy(&root().join("examples/energon/photos"), &set);
    let path = format!("finetune.data.path={}", set.display());
    let checked = run(neva_run(&["data", "check", RECIPE, "--set", &path])).with_code(0);
    assert!(checked.stdout.starts_with("train: 16 samples, "), "{}", checked.stdout);
    assert!(checked.stdout.contains("val: 2 samples"), "{}", checked.stdout);
    let shown = run(neva_run(&["data", "inspect", RECIPE, "--set", &path, "--record", "train#0"])).with_code(0);
    assert!(
        shown.stdout.contains("train#0 (id ") && shown.stdout.contains("{+"),
        "{}",
        shown.stdout
    );
    // A broken image is found, listed and left out.
    let shard = set.join("shard_0000.tar");
    let mut bytes = std::fs::read(&shard).unwrap();
    let jpeg = bytes.windows(3).position(|three| three == [0xff, 0xd8, 0xff]).unwrap();
    bytes[jpeg..jpeg + 2].copy_from_slice(b"no");
    std::fs::write(&shard, bytes).unwrap();
    let list = folder.path().join("skip.jsonl");
    let checked = run(neva_run(&[
        "data",
        "check",
        RECIPE,
        "--set",
        &path,
        "--skip-list",
        list.to_str().unwrap(),
    ]))
    .with_code(2);
    assert!(
        checked.stdout.contains("1 broken") && checked.stdout.contains("shard_0000.tar"),
        "{}",
        checked.stdout
    );
    let skip = format!("finetune.data.skip_list={}", list.display());
    let losses = train(&folder.path().join("run"), 2, 1, &[&path, &skip]);
    assert_eq!(losses.len(), 2);
    let ended = run(neva_run(&["data", "check", RECIPE, "--length-index", "lengths.bin"])).with_code(2);
    assert!(ended.stderr.contains("neva-run data pack"), "{}", ended.stderr);
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn problems_are_reported_before_launch() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["finetune.data.path=nowhere"], &["finetune.data.path", "does not exist"]),
        (&["finetune.data.path=examples/photos"], &["not prepared", "neva-run data prepare"]),
        (
            &["finetune.data.packing_buffer_size=null"],
            &["finetune.data.packed_sequence_size", "set packing_buffer_size"],
        ),
        (
            &["finetune.data.packing_buffer_size=0"],
            &["finetune.data.packing_buffer_size", "at least 1"],
        ),
        (
            &[
                "finetune.data.packed_sequence_size=390",
                "num_gpus_per_node=2",
                "finetune.trainer.strategy.context_parallel_size=2",
            ],
            &["packed_sequence_size", "392"],
        ),
        (
            &["finetune.data.group_by_modality_length=true"],
            &["group_by_modality_length", "packed or grouped"],
        ),
        (&["finetune.data.decoder_seq_length=8"], &["decoder_seq_length"]),
        (
            &["finetune.data.multimodal_sample_config.image_token.token_id=5"],
            &["token_id", "-200"],
        ),
        (
            &["finetune.data.sample_loaders={other: {sample_type: VQASample, field_map: {context: txt}}}"],
            &["other", "is the mapping of no dataset"],
        ),
        (&["finetune.data.task_encoder={_target_: MyTaskEncoder}"], &["MyTaskEncoder"]),
    ];
    for (settings, expected) in cases {
        let at = format!("dir={}", dir.path().display());
        let mut arguments = vec![RECIPE, "--set", &at];
        settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
        let ended = run(neva_run(&arguments)).with_code(2);
        let text = ended.stderr.replace("\n  │ ", " ");
        for part in *expected {
            assert!(text.contains(part), "{settings:?}: {part}\nis not in\n{text}");
        }
    }
    assert!(root().join(RECIPE).is_file());
}
