//! The same recipe and seed give bitwise equal results.

use crate::setting::{files, mock, names, run, small, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_schemas::{EFFECTS_FILE, Finetune, METRICS_FILE, PARAMETERS_FILE, PeftScheme, REPORT_FILE, RunReport};
use serde_json::Value;
use std::path::Path;

fn losses(finetune: &Finetune, run_dir: &Path) -> Vec<u64> {
    let report = run(finetune, run_dir).unwrap();
    assert_eq!((report.steps, report.losses.len()), (6, 6));
    report.losses.iter().map(|loss| loss.to_bits()).collect()
}

/// Runs the recipe twice, and again with two data workers.
fn check(change: fn(&mut Finetune)) {
    within_limit(move || {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        change(&mut finetune);
        let first = losses(&finetune, &folder.path().join("first"));
        assert!(first.iter().any(|bits| *bits != first[0]), "the loss never changes");
        assert_eq!(losses(&finetune, &folder.path().join("second")), first);
        mock(&mut finetune).num_workers = 2;
        assert_eq!(losses(&finetune, &folder.path().join("workers")), first, "with data workers");
        for file in ["model.safetensors", "optimizer.safetensors"] {
            let of = |run: &str| {
                files(
                    &folder
                        .path()
                        .join(run)
                        .join("checkpoints")
                        .join("default--step=5-consumed_samples=48-last"),
                )[Path::new(file)]
                .clone()
            };
            assert!(of("first") == of("second") && of("first") == of("workers"), "{file} differs");
        }
        finetune.trainer.seed += 1;
        assert_ne!(losses(&finetune, &folder.path().join("seed")), first, "the seed does nothing");
    });
}

#[test]
fn of_a_full_fine_tune() {
    check(|_| {});
}

#[test]
fn of_adapters() {
    check(|finetune| {
        finetune.peft = neva_recipes::neva_tiny::finetune_recipe(neva_schemas::RecipeArgs {
            peft_scheme: PeftScheme::Lora,
            ..neva_recipes::neva_tiny::default_args()
        })
        .peft
    });
}

/// Another kind of processor may compute other last bits; a checkpoint says which kernels it had.
#[test]
fn a_checkpoint_names_the_kernels_of_the_processor() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let report = run(&small(), &folder.path().join("run")).unwrap();
        let checkpoint = CheckpointFolder::open(&report.checkpoint.unwrap()).unwrap();
        let kernels = checkpoint.state.progress.kernels.unwrap();
        for part in ["rows ", "attention ", "float32 products "] {
            assert!(kernels.contains(part), "{kernels}");
        }
    });
}

#[test]
fn a_run_writes_its_metrics_and_report() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let finetune = small();
        let report = run(&finetune, &run_dir).unwrap();
        assert_eq!(
            names(&run_dir),
            [
                "checkpoints",
                "curves.svg",
                EFFECTS_FILE,
                METRICS_FILE,
                PARAMETERS_FILE,
                REPORT_FILE,
                "tb_logs"
            ]
        );
        assert_eq!(
            serde_json::from_slice::<RunReport>(&std::fs::read(run_dir.join(REPORT_FILE)).unwrap()).unwrap(),
            report
        );
        let lines = std::fs::read_to_string(run_dir.join(METRICS_FILE)).unwrap();
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 6);
        for (step, line) in lines.iter().enumerate() {
            assert_eq!(line["step"], step);
            assert_eq!(
                line["reduced_train_loss"].as_f64().unwrap().to_bits(),
                report.losses[step].to_bits()
            );
            assert_eq!(line["lr"].as_f64(), Some(*finetune.optim.lr()));
            assert_eq!(line["consumed_samples"], 8 * (step + 1));
            for key in ["grad_norm", "train_step_timing in s", "tokens/s"] {
                assert!(line[key].as_f64().unwrap() > 0.0, "{key} of step {step}");
            }
        }
    });
}
