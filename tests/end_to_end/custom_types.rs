//! `examples/own`: a custom launcher and rank program, with a data module and a callback.

use neva_tests::{example, launcher, metrics, neva_run, run, run_folder};
use std::fs;
use std::path::Path;

const RECIPE: &str = "examples/own/recipe.yaml";

fn at(dir: &Path) -> String {
    format!("dir={}", dir.display())
}

#[test]
fn the_launcher_starts_the_rank_program_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(launcher(&example("own-run"), &[RECIPE, "--set", &at(dir.path())])).with_code(0);
    let folder = run_folder(dir.path(), "colours");
    let losses = metrics(&folder, "reduced_train_loss");
    assert_eq!(losses.len(), 30, "{}", ended.stdout);
    assert!(losses[29] < 0.5 * losses[0], "four answers are soon learnt: {losses:?}");
    let best: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("best.json")).unwrap()).unwrap();
    let lowest = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(best["loss"].as_f64(), Some(lowest));
    assert_eq!(losses[best["step"].as_u64().unwrap() as usize], lowest);
}

#[test]
fn samples_of_a_custom_data_module_are_packed_over_a_buffer() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        "finetune.data.packing_buffer_size=32",
        "finetune.data.packed_sequence_size=384",
        "finetune.data.global_batch_size=4",
        "finetune.data.micro_batch_size=1",
        "finetune.trainer.max_epochs=1",
    ];
    let at = at(dir.path());
    let mut arguments = vec![RECIPE, "--set", &at];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let _ = run(launcher(&example("own-run"), &arguments)).with_code(0);
    let folder = run_folder(dir.path(), "colours");
    let samples = metrics(&folder, "samples");
    assert!((2..10).contains(&samples.len()), "{samples:?}");
    assert!(samples.iter().sum::<f64>() >= 64.0 && samples[0] >= 8.0, "{samples:?}");
}

#[test]
fn a_factory_of_the_launcher_completes_a_partial_schedule() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "examples/own/partial.yaml",
        "--set",
        &at(dir.path()),
        "--set",
        "finetune.trainer.max_steps=10",
    ];
    let _ = run(launcher(&example("own-run"), &arguments)).with_code(0);
    let rates = metrics(&run_folder(dir.path(), "partial"), "lr");
    // Warm-up over 3 steps, and decay over the last 2 of 10.
    assert_eq!(rates.len(), 10);
    assert!(rates[0] < rates[2] && rates[2] < 2e-3 && rates[9] < 2e-3, "{rates:?}");
    assert!(rates[3..8].iter().all(|rate| (rate - 2e-3).abs() < 1e-9), "{rates:?}");
    // A launcher without the factory lists those that it has.
    let ended = run(neva_run(&["show", "examples/own/partial.yaml"])).with_code(2);
    assert!(ended.stderr.contains("unknown name `decays_at_the_end`"), "{}", ended.stderr);
}

#[test]
fn a_callback_resumes_with_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let run_until = |steps: u64| {
        let steps = format!("finetune.trainer.max_steps={steps}");
        let arguments = [
            RECIPE,
            "--set",
            &at(dir.path()),
            "--set",
            &steps,
            "--set",
            "num_gpus_per_node=1",
            "--set",
            "finetune.resume.resume_if_exists=true",
            "--set",
            "finetune.resume.resume_ignore_no_checkpoint=true",
        ];
        let _ = run(launcher(&example("own-run"), &arguments)).with_code(0);
        let folder = run_folder(dir.path(), "colours");
        let best = fs::read_to_string(folder.join("best.json")).ok();
        (folder.clone(), best, metrics(&folder, "reduced_train_loss"))
    };
    let (first, best, before) = run_until(8);
    let lowest = |losses: &[f64]| losses.iter().copied().fold(f64::INFINITY, f64::min);
    let best: serde_json::Value = serde_json::from_str(&best.unwrap()).unwrap();
    assert_eq!(best["loss"].as_f64(), Some(lowest(&before)));
    let (second, best, after) = run_until(10);
    assert_ne!(first, second);
    // A new file is written only if the loss fell below all losses of the previous run.
    assert_eq!(best.is_some(), lowest(&after) < lowest(&before), "{before:?} {after:?}");
}

#[test]
fn a_rank_program_without_a_type_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(neva_run(&[RECIPE, "--set", &at(dir.path()), "--set", "num_gpus_per_node=1"])).with_code(2);
    for message in ["no callback `own::BestLoss`", "NEVA_RANK names the program that has it"] {
        assert!(ended.stderr.replace("\n  │ ", " ").contains(message), "{message}: {}", ended.stderr);
    }
    let rank = example("own-rank");
    let mut named = neva_run(&[
        RECIPE,
        "--set",
        &at(dir.path()),
        "--set",
        "name=named",
        "--set",
        "finetune.trainer.max_steps=2",
    ]);
    named.env("NEVA_RANK", rank);
    let _ = run(named).with_code(0);
    for (set, message) in [
        ("finetune.data.sampels=3", "unknown field `sampels`"),
        ("finetune.data.samples=0", "`samples` is 0, it must be at least 1"),
        ("finetune.trainer.callbacks[0].file=null", "own::BestLoss"),
        ("finetune.data.packed_set=rows.bin", "set packing_buffer_size"),
        ("finetune.data.packing_buffer_size=many", "`packing_buffer_size` is \"many\""),
        ("finetune.data.packing_oversize=cut", "it must be truncate or skip"),
        ("finetune.data.packed_sequence_size=384", "`packed_sequence_size` has no effect"),
    ] {
        let arguments = [RECIPE, "--set", &at(dir.path()), "--set", "num_gpus_per_node=1", "--set", set];
        let ended = run(launcher(&example("own-run"), &arguments)).with_code(2);
        let shown = ended.stderr.replace("\n  │ ", " ");
        assert!(shown.contains(message), "{set}: {}", ended.stderr);
    }
}
