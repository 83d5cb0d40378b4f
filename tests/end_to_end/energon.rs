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
fn problems_are_reported_before_launch() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["finetune.data.path=nowhere"], &["finetune.data.path", "does not exist"]),
        (&["finetune.data.path=examples/photos"], &["not prepared", "neva-run data prepare"]),
        (
            &["finetune.data.packing_buffer_size=200"],
            &["packing_buffer_size", "use_packed_sequence"],
        ),
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
