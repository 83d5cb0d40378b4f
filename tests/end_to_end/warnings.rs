//! Warnings of runs that go on: what was skipped, ignored or chosen among others.

use neva_engine::checkpoint::{TensorFile, write_tensors};
use neva_tests::{Ended, neva_run, root, run, run_folder};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Trains `neva_tiny` below `dir` until `steps` steps are done.
fn train(dir: &Path, steps: u32, settings: &[&str]) -> Ended {
    let dir = format!("dir={}", dir.display());
    let steps = format!("finetune.trainer.max_steps={steps}");
    let own = ["recipes/neva_tiny.yaml", "--set", "name=w", "--set", &dir, "--set", &steps];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]);
    run(neva_run(&own.into_iter().chain(settings).collect::<Vec<_>>())).with_code(0)
}

/// Returns the only checkpoint of a run.
fn checkpoint(run: &Path) -> PathBuf {
    let mut entries = fs::read_dir(run.join("checkpoints")).unwrap();
    entries.next().unwrap().unwrap().path()
}

/// Checks that the output of a run has each text, apart from line breaks.
#[track_caller]
fn check(ended: &Ended, texts: &[&str]) {
    let all = format!("{} {}", ended.stdout, ended.stderr);
    let flat = all.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in texts {
        assert!(flat.contains(text), "{text:?} is not in\n{all}");
    }
}

const RESUME: &str = "finetune.resume.resume_if_exists=true";

#[test]
fn a_run_says_that_it_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let started = train(dir.path(), 1, &[RESUME, "finetune.resume.resume_ignore_no_checkpoint=true"]);
    check(&started, &["WARN", "starting from the beginning"]);
    let weights = checkpoint(&run_folder(dir.path(), "w")).join("model.safetensors");
    fs::write(&weights, &fs::read(&weights).unwrap()[..100]).unwrap();
    let started = train(dir.path(), 1, &[RESUME, "finetune.resume.resume_ignore_damaged=true"]);
    let expect = "resume_ignore_damaged: no checkpoint can be used, starting from the beginning";
    check(&started, &["WARN", expect]);
}

#[test]
fn a_run_that_is_not_the_longest_is_resumed_with_the_names_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let mut named = Vec::new();
    for steps in [3, 1] {
        train(dir.path(), steps, &[]);
        named.push(checkpoint(&run_folder(dir.path(), "w")).display().to_string());
    }
    let [older, newest] = &named[..] else { unreachable!("two runs") };
    let resumed = train(dir.path(), 2, &[RESUME]);
    let found = format!("the newest run has {newest} after 1 steps; an older run has {older} after 3 steps");
    check(&resumed, &["WARN", &found, &format!("finetune.resume.resume_from_path={older}")]);
}

#[test]
fn a_model_names_the_tensors_and_settings_that_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, model) = (root().join("tests/fixtures/hf/llava_clip_llama"), dir.path().join("model"));
    fs::create_dir(&model).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(fixture.join("config.json")).unwrap()).unwrap();
    config["text_config"]["attention_dropout"] = 0.1.into();
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    let file = TensorFile::open(&fixture.join("model.safetensors")).unwrap();
    let names = file.tensors().into_keys();
    let mut tensors: Vec<_> = names.map(|name| (name.clone(), file.read(&name, None).unwrap())).collect();
    let norm = tensors.iter().find(|(name, _)| name.ends_with("model.norm.weight")).unwrap();
    tensors.push(("image_newline".to_owned(), norm.1.shallow_clone()));
    write_tensors(&model.join("model.safetensors"), tensors).unwrap();
    let address = format!("finetune.model.from_pretrained={}", model.display());
    check(
        &train(dir.path(), 1, &[&address]),
        &[
            "skipped tensors that are not part of the model: `image_newline`",
            "`text_config.attention_dropout` is 0.1, but this program trains without dropout",
        ],
    );
}
