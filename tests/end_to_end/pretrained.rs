//! Runs that name a model only by its address: trained, saved, shown again.

use neva_tests::{neva_run, root, run, run_folder};
use std::path::Path;

fn settings(dir: &Path, more: &[&str]) -> Vec<String> {
    let dir = format!("dir={}", dir.display());
    let own = ["recipes/neva_tiny.yaml", "--set", &dir, "--set", "finetune.trainer.max_steps=2"];
    let more = more.iter().flat_map(|setting| ["--set", setting]);
    own.into_iter().chain(more).map(str::to_owned).collect()
}

fn neva(arguments: &[String]) -> std::process::Command {
    neva_run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_model_is_trained_with_nothing_but_its_address() {
    for (case, parameters) in [("llava_clip_llama", "356672"), ("llava_clip_llama_gqa", "")] {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("finetune.model.from_pretrained={}/tests/fixtures/hf/{case}", root().display());
        let ended = run(neva(&settings(dir.path(), &[&address]))).with_code(0);
        assert!(
            ended.stdout.contains("done: 2 steps") && ended.stdout.contains(parameters),
            "{}",
            ended.stdout
        );
        // The record has all sizes, and the address of the weights.
        let plan = run_folder(dir.path(), "neva_tiny").join("plan.json");
        let shown = run(neva_run(&["show", plan.to_str().unwrap()])).with_code(0);
        assert!(
            shown.stdout.contains("hidden_size: 64") && shown.stdout.contains(case),
            "{}",
            shown.stdout
        );
    }
}

#[test]
fn an_imported_model_is_trained_in_one_process_and_by_two_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("models");
    let fixture = root().join("tests/fixtures/hf/llava_clip_llama");
    let mut command = neva_run(&["import", fixture.to_str().unwrap()]);
    command.env("NEMO_MODELS_CACHE", &cache);
    let imported = run(command).with_code(0);
    assert!(imported.stdout.contains("nemo://llava_clip_llama"), "{}", imported.stdout);
    let address = "finetune.model.from_pretrained=nemo://llava_clip_llama";
    let losses = ["num_gpus_per_node=1", "num_gpus_per_node=2"].map(|ranks| {
        let mut command = neva(&settings(dir.path(), &[address, ranks]));
        command.env("NEMO_MODELS_CACHE", &cache);
        let ended = run(command).with_code(0);
        ended
            .stdout
            .lines()
            .rfind(|line| line.starts_with("done: 2 steps"))
            .unwrap_or_default()
            .to_owned()
    });
    assert!(losses[0].starts_with("done: 2 steps"));
    assert_eq!(losses[0], losses[1]);
}
