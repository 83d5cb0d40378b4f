//! `neva_run::run` with an engine of the caller, and with an executor.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use neva_executors::LocalExecutor;
use neva_recipes::neva_tiny;
use neva_run::{Experiment, RunError, RunOptions, run};
use neva_schemas::{
    Data, Engine, Finetune, LaunchPlan, LoRA, NevaPreloadedDataModule, Peft, RankEnv, RankFailure, RecipeArgs, Run, RunReport, exit_class,
};

use crate::{experiment::options, fake_rank};

/// Engine that records its calls.
#[derive(Clone, Default)]
struct FakeEngine {
    seen: Arc<Mutex<Vec<(LaunchPlan, RankEnv)>>>,
    fails: bool,
    stopped: bool,
}

impl Engine for FakeEngine {
    fn train(&self, plan: &LaunchPlan, rank: &RankEnv) -> Result<RunReport, RankFailure> {
        self.seen.lock().unwrap().push((plan.clone(), rank.clone()));
        if self.fails {
            let chain = vec!["batch 1".to_owned(), "no image".to_owned()];
            return Err(RankFailure {
                class: exit_class::INPUT,
                rank: 0,
                step: Some(1),
                unix_ms: 0,
                chain,
                peer_failure: false,
                help: None,
            });
        }
        Ok(RunReport {
            run_dir: plan.run_dir.clone(),
            steps: 3,
            losses: vec![2.0, 1.0],
            checkpoint: None,
            stopped: self.stopped.then(|| "SIGUSR1".to_owned()),
            ended_early: None,
        })
    }
}

fn tiny(dir: &tempfile::TempDir) -> Finetune {
    let mut finetune = neva_tiny::finetune_recipe(neva_tiny::default_args());
    finetune.log.log_dir = Some(dir.path().to_owned());
    finetune
}

#[test]
fn direct_trains_in_this_process_and_writes_the_plan() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), FakeEngine::default());
    let report = run(&tiny(&dir), RunOptions::direct(engine.clone())).unwrap();
    let seen = engine.seen.lock().unwrap();
    let (plan, rank) = seen.first().unwrap();
    assert_eq!((rank, report.steps), (&RankEnv::single(), 3));
    let written: LaunchPlan = serde_json::from_slice(&fs::read(report.run_dir.join("plan.json")).unwrap()).unwrap();
    assert_eq!(&written, plan);
    assert_eq!(written.run.factory, "custom");
}

/// A recipe's `nemo_compat` also applies to data that a caller sets later.
#[test]
fn nemo_compat_of_a_recipe_applies_to_data_set_from_rust() {
    for (nemo_compat, own, expect) in [
        (false, None, None),
        (true, None, Some(false)),
        (true, Some(true), Some(true)),
        (false, Some(false), Some(false)),
    ] {
        let (dir, engine) = (tempfile::tempdir().unwrap(), FakeEngine::default());
        let mut finetune = neva_tiny::finetune_recipe(RecipeArgs {
            nemo_compat,
            dir: Some(dir.path().to_owned()),
            ..neva_tiny::default_args()
        });
        finetune.data = Data::Preloaded(NevaPreloadedDataModule {
            paths: vec![dir.path().join("data.json")],
            add_bos: own,
            global_batch_size: 8,
            ..NevaPreloadedDataModule::default()
        });
        run(&finetune, RunOptions::direct(engine.clone()).preflight(false)).unwrap();
        let seen = engine.seen.lock().unwrap();
        let run = &seen.first().unwrap().0.run;
        let Data::Preloaded(data) = &run.finetune.data else {
            panic!("{run:?}")
        };
        assert_eq!((data.add_bos, run.nemo_compat), (expect, nemo_compat), "{own:?}");
    }
}

#[test]
fn direct_resolves_relative_paths_against_the_given_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = tiny(&dir);
    finetune.log.log_dir = Some(PathBuf::from("runs"));
    let report = run(&finetune, RunOptions::direct(FakeEngine::default()).working_directory(dir.path())).unwrap();
    assert!(report.run_dir.starts_with(dir.path().join("runs/default")), "{:?}", report.run_dir);
}

#[test]
fn direct_refuses_several_ranks_without_torchrun() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), FakeEngine::default());
    let mut finetune = tiny(&dir);
    finetune.trainer.devices = 2;
    let error = run(&finetune, RunOptions::direct(engine.clone())).unwrap_err();
    assert!(matches!(error, RunError::SeveralRanks { world_size: 2 }), "{error:?}");
    assert_eq!(error.exit_code(), exit_class::INPUT);
    assert!(error.advice().unwrap().contains("torchrun"));
    assert!(engine.seen.lock().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_failure_of_the_engine_is_the_failure_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let error = run(
        &tiny(&dir),
        RunOptions::direct(FakeEngine {
            fails: true,
            ..Default::default()
        }),
    )
    .unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        ("rank 0 failed in step 1: batch 1: no image", exit_class::INPUT)
    );
}

#[test]
fn an_engine_that_was_stopped_did_not_finish() {
    let dir = tempfile::tempdir().unwrap();
    let engine = FakeEngine {
        stopped: true,
        ..Default::default()
    };
    let error = run(&tiny(&dir), RunOptions::direct(engine)).unwrap_err();
    assert!(
        matches!(&error, RunError::Stopped { signal, steps: 3, checkpoint: None, .. } if signal == "SIGUSR1"),
        "{error:?}"
    );
    assert_eq!(
        (error.to_string().as_str(), error.exit_code(), error.advice()),
        ("stopped by SIGUSR1 after 3 steps; there is no checkpoint", exit_class::JOB, None)
    );
}

#[test]
fn an_invalid_run_does_not_start() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), FakeEngine::default());
    let mut finetune = tiny(&dir);
    finetune.trainer.max_steps = Some(0);
    finetune.log.name = "..".into();
    let error = run(&finetune, RunOptions::direct(engine)).unwrap_err();
    let RunError::Invalid(problems) = &error else { panic!("{error:?}") };
    assert_eq!(
        problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(),
        ["finetune.trainer.max_steps", "finetune.log.name"]
    );
}

#[test]
fn layers_that_cannot_be_split_are_refused_before_launch() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = tiny(&dir);
    finetune.trainer.devices = 3;
    finetune.trainer.strategy.pipeline_model_parallel_size = 3;
    finetune.model.as_llava_mut().unwrap().text_config.num_hidden_layers = 4;
    let error = run(&finetune, RunOptions::direct(FakeEngine::default())).unwrap_err();
    let RunError::Invalid(problems) = &error else { panic!("{error:?}") };
    let [only] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(only.path, "finetune.trainer.strategy.pipeline_model_parallel_size");
}

#[test]
fn adapters_without_a_module_are_refused_before_launch() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = tiny(&dir);
    finetune.peft = Some(Peft::LoRA(LoRA {
        target_modules: vec!["linear_qvk".into()],
        ..LoRA::default()
    }));
    let error = run(&finetune, RunOptions::direct(FakeEngine::default())).unwrap_err();
    let RunError::Invalid(problems) = &error else { panic!("{error:?}") };
    let [only] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(only.path, "finetune.peft.target_modules");

    let experiment = Experiment::new("adapters").add("train", Run::from_finetune(finetune));
    let error = experiment.run(options(dir.path())).unwrap_err();
    let RunError::Invalid(problems) = &error else { panic!("{error:?}") };
    let [only] = problems.as_slice() else { panic!("{problems:?}") };
    assert_eq!(only.path, "tasks.train.task.finetune.peft.target_modules");
}

#[test]
fn a_frozen_model_is_trained_through_adapters_only() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), FakeEngine::default());
    let mut finetune = tiny(&dir);
    let model = finetune.model.as_llava_mut().unwrap();
    model.freeze_language_model = true;
    model.freeze_vision_model = true;
    model.freeze_vision_projection = true;
    let error = run(&finetune, RunOptions::direct(engine.clone())).unwrap_err();
    assert!(matches!(error, RunError::Invalid(_)), "{error:?}");
    finetune.peft = Some(Peft::LoRA(LoRA::default()));
    run(&finetune, RunOptions::direct(engine)).unwrap();
}

#[test]
fn an_executor_runs_ranks_and_forwards_the_output_of_rank_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut finetune = tiny(&dir);
    finetune.trainer.devices = 2;
    let output = Arc::new(Mutex::new(Vec::new()));
    let sink = output.clone();
    let options =
        RunOptions::executor(Arc::new(LocalExecutor::new(fake_rank()))).output(move |bytes| sink.lock().unwrap().extend_from_slice(bytes));
    let report = run(&finetune, options).unwrap();
    assert_eq!((report.steps, report.losses.as_slice()), (5, [7.5, 0.25].as_slice()));
    let output = String::from_utf8(output.lock().unwrap().clone()).unwrap();
    assert!(output.starts_with("rank 0 of 2"), "{output}");
    assert_eq!(output, fs::read_to_string(report.run_dir.join("logs/rank0.log")).unwrap());
    assert!(
        fs::read_to_string(report.run_dir.join("logs/rank1.log"))
            .unwrap()
            .starts_with("rank 1 of 2")
    );
}

#[test]
fn a_failed_attempt_is_reported_as_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let retries = Arc::new(Mutex::new(Vec::new()));
    let sink = retries.clone();
    let executor = Arc::new(LocalExecutor::new(fake_rank().with_file_name("fails-once")));
    let options = RunOptions::executor(executor.clone())
        .retries(1)
        .on_retry(move |retry| sink.lock().unwrap().push(retry.clone()));
    assert_eq!(run(&tiny(&dir), options).unwrap().steps, 2);
    let retries = retries.lock().unwrap();
    let [retry] = retries.as_slice() else { panic!("{retries:?}") };
    assert_eq!(
        (retry.attempt, retry.attempts, retry.pause, &retry.checkpoint),
        (1, 2, Duration::from_secs(1), &None)
    );
    assert_eq!(
        (retry.failure.class, retry.failure.tail.as_slice()),
        (exit_class::CLUSTER, ["no luck".to_owned()].as_slice())
    );

    let error = run(&tiny(&dir), RunOptions::executor(executor)).unwrap_err();
    assert!(matches!(error, RunError::Job(_)), "no retry was requested: {error:?}");
}
