//! Records of a run are recipes: its folder, a checkpoint, their files.

use std::{fs, path::Path};

use jiff::civil::date;
use neva_recipes::neva_tiny;
use neva_run::{Resolved, config, config::Problems, load, lower, resolve};
use neva_schemas::{Data, LaunchPlan, Run};
use serde_json::json;

/// Runs with values whose form differs between plan and recipe.
const RUNS: &[(&str, &[&str])] = &[
    ("neva_tiny", &[]),
    ("llava15_7b", &["nemo_compat=true"]),
    ("llava15_11b", &["peft_scheme=none"]),
    ("llava15_7b_pretrain", &["dir=/runs"]),
    (
        "neva_llama3_8b",
        &["finetune.optim={_target_: optim.SGD, lr_scheduler: {_target_: WSD, decay_steps: 5, decay_type: 1-sqrt}}"],
    ),
    (
        "neva_tiny",
        &[
            "dir=/runs",
            "finetune.data={_target_: \"own::Data\", seq_length: 64, global_batch_size: 8, micro_batch_size: 4, num_workers: 0, odd: {optim.AdamW: 1, list: [a, 2]}}",
            "finetune.trainer.callbacks=[{_target_: nl.EarlyStopping, patience: 7}, {_target_: \"own::Log\", text: \"$${HOME} @@x.yaml\"}]",
            "finetune.trainer.max_time=1h30m",
            "finetune.optim.param_groups=[{params: [\"*.bias\"], weight_decay: 0}]",
        ],
    ),
    (
        "neva_tiny",
        &[
            "peft_scheme=lora",
            "finetune.data={_target_: vlm.NevaPreloadedDataModule, paths: [/a.json, /b.json], global_batch_size: 8, num_workers: 0}",
        ],
    ),
];

fn resolved(recipe: &str, sets: &[&str]) -> Resolved {
    try_resolved(recipe, sets).unwrap_or_else(|error| panic!("{recipe} {sets:?}: {}", config::render(&error, false)))
}

fn try_resolved(recipe: &str, sets: &[&str]) -> Result<Resolved, Problems> {
    resolve(load(recipe)?, sets)
}

/// Writes the records of `run` into `folder`: its plan and its checkpoint.
fn write(run: &Run, folder: &Path) -> LaunchPlan {
    let plan = lower(run, Path::new("/work"), date(2026, 11, 4).at(3, 2, 1, 0));
    let checkpoint = folder.join("checkpoints/a--step=4-last");
    fs::create_dir_all(&checkpoint).unwrap();
    fs::write(folder.join("plan.json"), serde_json::to_string_pretty(&plan).unwrap()).unwrap();
    fs::write(checkpoint.join("run.json"), serde_json::to_string(&plan.run).unwrap()).unwrap();
    plan
}

#[test]
fn a_run_folder_resolves_to_the_launched_run() {
    for (recipe, sets) in RUNS {
        let dir = tempfile::tempdir().unwrap();
        let run = resolved(recipe, sets).run;
        let mut expect = write(&run, dir.path()).run;
        // The folder of its runs is also at the top level.
        expect.dir = expect.finetune.log.log_dir.clone();
        let folder = dir.path().to_str().unwrap();
        let checkpoint = format!("{folder}/checkpoints/a--step=4-last");
        for named in [
            folder,
            &format!("{folder}/plan.json"),
            &checkpoint,
            &format!("{checkpoint}/run.json"),
        ] {
            assert_eq!(resolved(named, &[]).run, expect, "{recipe} {sets:?} {named}");
        }
    }
}

#[test]
fn a_run_from_rust_without_a_recipe_is_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.log.log_dir = Some("/runs".into());
    finetune.data = Data::Mock(neva_schemas::MockDataModule {
        global_batch_size: 4,
        ..neva_schemas::MockDataModule::default()
    });
    let plan = write(&Run::from_finetune(finetune), dir.path());
    let folder = dir.path().to_str().unwrap();
    assert_eq!(resolved(folder, &[]).run, plan.run);
    let again = resolved(folder, &["name=again", "dir=/others", "finetune.optim.lr=1e-3"]).run;
    assert_eq!((again.finetune.log.name.as_str(), again.factory.as_str()), ("again", "custom"));
    assert_eq!(again.finetune.log.log_dir.as_deref(), Some(Path::new("/others")));
}

#[test]
fn overrides_change_a_record_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = resolved("neva_tiny", &["finetune.trainer.max_steps=7"]).run;
    write(&run, dir.path());
    let folder = dir.path().to_str().unwrap();
    let again = resolved(
        folder,
        &["name=again", "dir=/others", "num_gpus_per_node=2", "finetune.trainer.max_steps+=1"],
    )
    .run;
    let graph = &again.finetune;
    assert_eq!(
        (graph.log.name.as_str(), graph.trainer.devices, graph.trainer.max_steps),
        ("again", 2, Some(8))
    );
    assert_eq!(graph.log.log_dir.as_deref(), Some(Path::new("/others")));
    // The graph of a record is complete, so the recipe derives nothing.
    for set in ["peft_scheme=lora", "nemo_compat=true"] {
        let error = try_resolved(folder, &[set]).unwrap_err();
        let [only] = error.errors() else { panic!("{error:?}") };
        let (argument, _) = set.split_once('=').unwrap();
        assert!(only.to_string().contains(&format!("`{argument}` has no effect here")), "{only}");
        assert!(only.problem.help().unwrap().contains("--set finetune"), "{only}");
    }
    // The same holds for a file that sets all derived values.
    let file = dir.path().join("mine.yaml");
    fs::write(&file, "_factory_: neva_tiny\nfinetune: {log: {name: mine}}\n").unwrap();
    let error = try_resolved(file.to_str().unwrap(), &["name=other"]).unwrap_err();
    assert!(error.errors()[0].problem.help().unwrap().contains("finetune.log.name"), "{error}");
}

#[test]
fn each_value_has_its_origin_in_the_record() {
    let dir = tempfile::tempdir().unwrap();
    write(&resolved("neva_tiny", &["peft_scheme=lora"]).run, dir.path());
    let file = dir.path().join("plan.json");
    let text = fs::read_to_string(&file).unwrap();
    let line = |wanted: &str| 1 + text.lines().position(|line| line.trim_start().starts_with(wanted)).unwrap();
    let tree = load(file.to_str().unwrap()).unwrap();
    for (path, wanted) in [
        ("peft_scheme", "\"peft_scheme\""),
        ("finetune.peft.dim", "\"dim\""),
        ("finetune.peft._target_", "\"vlm.LoRA\""),
        ("finetune.model.text_config.vocab_size", "\"vocab_size\""),
        ("finetune.optim.lr_scheduler.warmup_steps", "\"warmup_steps\""),
    ] {
        let origin = config::locate(&tree, path).unwrap();
        assert_eq!(origin.line_column().unwrap().0, line(wanted), "{path}: {origin}");
    }
}

#[test]
fn files_may_include_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs/first");
    write(&resolved("neva_tiny", &["finetune.trainer.max_steps=7"]).run, &runs);
    for named in [
        "runs/first/plan.json",
        "runs/first",
        "runs/first/checkpoints/a--step=4-last",
        "runs",
    ] {
        let file = dir.path().join("mine.yaml");
        fs::write(&file, format!("_include_: {named}\nname: mine\nfinetune: {{optim: {{lr: 1}}}}\n")).unwrap();
        let run = resolved(file.to_str().unwrap(), &[]).run;
        assert_eq!((run.name.as_str(), run.finetune.log.name.as_str()), ("mine", "mine"), "{named}");
        let lr = serde_json::to_value(&run.finetune.optim).unwrap()["optim.AdamW"]["lr"].clone();
        assert_eq!((run.finetune.trainer.max_steps, lr), (Some(7), json!(1.0)), "{named}");
    }
    let file = dir.path().join("part.yaml");
    fs::write(
        &file,
        "_factory_: neva_tiny\nfinetune: {model: \"@runs/first/plan.json:finetune.model\"}\n",
    )
    .unwrap();
    resolved(file.to_str().unwrap(), &[]);
}

#[test]
fn a_folder_of_runs_means_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, steps) in [("2026-11-04_03-02-01", 1), ("2026-11-04_03-02-01-1", 2), ("copied", 3)] {
        let run = resolved("neva_tiny", &[&format!("finetune.trainer.max_steps={steps}")]).run;
        write(&run, &dir.path().join(folder));
        let plan = fs::File::options()
            .write(true)
            .open(dir.path().join(folder).join("plan.json"))
            .unwrap();
        // The second is the newest.
        let age = if steps == 2 { 1_000_000 } else { 1000 * steps };
        plan.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(age))
            .unwrap();
    }
    let run = resolved(dir.path().to_str().unwrap(), &[]).run;
    assert_eq!(run.finetune.trainer.max_steps, Some(2));
}

#[test]
fn a_record_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = resolved("neva_tiny", &[]).run;
    write(&run, dir.path());
    let file = dir.path().join("plan.json");
    let plan: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for (pointer, value, message) in [
        ("/format", json!(99), "does not have format"),
        ("/run/finetune/trainer/devices", json!("many"), "invalid type"),
        ("/run/finetune/optim", json!({"optim.Unknown": {}}), "unknown variant"),
    ] {
        let mut broken = plan.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        fs::write(&file, serde_json::to_string_pretty(&broken).unwrap()).unwrap();
        let error = try_resolved(file.to_str().unwrap(), &[]).unwrap_err();
        let [only] = error.errors() else { panic!("{error:?}") };
        assert!(only.to_string().contains(message), "{pointer}: {only}");
        assert!(
            only.origin.as_ref().is_some_and(|origin| origin.line_column().unwrap().0 > 1),
            "{only:?}"
        );
    }
    let empty = tempfile::tempdir().unwrap();
    let error = try_resolved(empty.path().to_str().unwrap(), &[]).unwrap_err();
    assert!(error.to_string().contains("the folder of a run or a checkpoint"), "{error}");
}
