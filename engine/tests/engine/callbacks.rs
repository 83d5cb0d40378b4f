//! Callbacks: the order of their hooks, their view of the run, and the effect of their results.

use crate::setting::{ONE, custom, names, run_on, small, validate, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::{Callback, EngineError, Flow, Registry, Result, RunView};
use neva_schemas::{Finetune, ParallelSizes, RunReport, exit_class};
use neva_track::{StepMetrics, ValidationMetrics};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Records the hook calls on the first rank.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorder {
    file: PathBuf,
    #[serde(default)]
    name: String,
    /// The event at which it fails.
    #[serde(default)]
    fail_at: Option<String>,
    /// The event at which it stops the run.
    #[serde(default)]
    stop_at: Option<String>,
    #[serde(skip)]
    seen: u64,
}

impl Recorder {
    fn record(&mut self, run: RunView<'_>, event: &str) -> Result<Flow> {
        self.seen += 1;
        if run.is_first {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file).unwrap();
            writeln!(file, "{}{event} [{}]", self.name, run.progress.steps_done).unwrap();
        }
        if self.fail_at.as_deref() == Some(event) {
            return Err(EngineError::Machine(format!("refused at {event}")));
        }
        Ok(match self.stop_at.as_deref() {
            Some(at) if at == event => Flow::Stop(format!("{}enough at {event}", self.name)),
            _ => Flow::Continue,
        })
    }
}

impl Callback for Recorder {
    fn on_train_start(&mut self, run: RunView<'_>) -> Result<()> {
        self.record(run, "train start").map(drop)
    }

    fn on_step_start(&mut self, run: RunView<'_>, step: u64) -> Result<()> {
        self.record(run, &format!("step {step} starts")).map(drop)
    }

    fn on_step_end(&mut self, run: RunView<'_>, metrics: &StepMetrics) -> Result<Flow> {
        assert_eq!(run.progress.metrics.get("reduced_train_loss").copied(), metrics.reduced_train_loss);
        assert_eq!(run.progress.consumed_samples, metrics.consumed_samples);
        self.record(run, &format!("step {} ends", metrics.step))
    }

    fn on_validation_start(&mut self, run: RunView<'_>) -> Result<()> {
        self.record(run, "validation starts").map(drop)
    }

    fn on_validation_end(&mut self, run: RunView<'_>, metrics: &ValidationMetrics) -> Result<Flow> {
        assert_eq!(run.progress.metrics.get("val_loss").copied(), metrics.val_loss);
        self.record(run, &format!("validation of {} samples ends", metrics.val_samples))
    }

    fn on_checkpoint(&mut self, run: RunView<'_>, path: &Path) -> Result<()> {
        let checkpoint = CheckpointFolder::open(path).unwrap();
        assert!(path.starts_with(run.run_dir) && checkpoint.verify().is_ok());
        self.record(run, &format!("checkpoint of {} steps", checkpoint.steps_done()))
            .map(drop)
    }

    fn on_train_end(&mut self, run: RunView<'_>, report: &RunReport) -> Result<()> {
        self.record(run, &format!("train end after {} steps", report.steps)).map(drop)
    }

    fn on_failure(&mut self, run: RunView<'_>, error: &EngineError) {
        let _ = self.record(run, &format!("failure: {error}"));
    }

    fn state(&self) -> Value {
        json!({ "seen": self.seen })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.seen = state["seen"]
            .as_u64()
            .ok_or_else(|| EngineError::Machine(format!("no state of a recorder: {state}")))?;
        Ok(())
    }
}

const RECORDER: &str = "tests::Recorder";

fn registry() -> Registry {
    Registry::builtin().callback::<Recorder>(RECORDER)
}

/// Returns a run of four steps with a recorder for each of `arguments`.
fn recorded(folder: &Path, arguments: &[Value]) -> Finetune {
    let mut finetune = small();
    finetune.trainer.max_steps = Some(4);
    let recorder = |arguments: &Value| {
        let mut arguments = arguments.clone();
        arguments["file"] = folder.join("events").display().to_string().into();
        custom(RECORDER, arguments)
    };
    finetune.trainer.callbacks = arguments.iter().map(recorder).collect();
    finetune
}

fn events(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("events")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn hooks_are_called_in_order() {
    within_limit(|| {
        for sizes in [ONE, ParallelSizes { tp: 2, ..ONE }] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = recorded(folder.path(), &[json!({})]);
            validate(&mut finetune, 2, 3);
            // The first validation and the third step cause a save.
            (finetune.log.ckpt.every_n_train_steps, finetune.log.ckpt.save_top_k) = (Some(3), -1);
            // Otherwise the disk determines when a checkpoint is complete.
            finetune.log.ckpt.ckpt_async_save = false;
            for report in run_on(&finetune, folder.path(), sizes, &registry()) {
                assert_eq!(report.unwrap().steps, 4);
            }
            assert_eq!(
                events(folder.path()),
                [
                    "train start [0]",
                    "step 0 starts [0]",
                    "step 0 ends [1]",
                    "step 1 starts [1]",
                    "step 1 ends [2]",
                    "validation starts [2]",
                    "validation of 3 samples ends [2]",
                    "checkpoint of 2 steps [2]",
                    "step 2 starts [2]",
                    "step 2 ends [3]",
                    "checkpoint of 3 steps [3]",
                    "step 3 starts [3]",
                    "step 3 ends [4]",
                    "validation starts [4]",
                    "validation of 3 samples ends [4]",
                    "checkpoint of 4 steps [4]",
                    "train end after 4 steps [4]",
                ]
            );
        }
    });
}

#[test]
fn every_callback_is_called_and_the_first_reason_counts() {
    within_limit(|| {
        for (at, steps) in [("step 1 ends", 2), ("validation of 3 samples ends", 2), ("step 3 ends", 4)] {
            let folder = tempfile::tempdir().unwrap();
            let stop = |name: &str| json!({ "name": name, "stop_at": at });
            let mut finetune = recorded(folder.path(), &[json!({ "name": "a: " }), stop("b: "), stop("c: ")]);
            validate(&mut finetune, 2, 3);
            let report = run_on(&finetune, folder.path(), ONE, &registry()).remove(0).unwrap();
            // A run at its last step did not end early.
            let reason = (steps < 4).then(|| format!("b: enough at {at}"));
            assert_eq!((report.steps, report.ended_early, report.stopped), (steps, reason, None));
            let progress = CheckpointFolder::open(&report.checkpoint.unwrap()).unwrap().state.progress;
            assert!(progress.finished && progress.steps_done == steps, "{progress:?}");
            let of = |event: &str| {
                events(folder.path())
                    .iter()
                    .filter(|line| line.contains(event))
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(of(at).len() % 3, 0, "{at}");
            let end = format!("train end after {steps} steps [{steps}]");
            assert_eq!(of("train end"), ["a: ", "b: ", "c: "].map(|name| format!("{name}{end}")));
        }
    });
}

#[test]
fn an_error_fails_the_run() {
    within_limit(|| {
        for at in [
            "train start",
            "step 0 starts",
            "step 2 ends",
            "validation starts",
            "validation of 3 samples ends",
            "checkpoint of 2 steps",
            "train end after 4 steps",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut finetune = recorded(folder.path(), &[json!({ "name": "a: ", "fail_at": at }), json!({ "name": "b: " })]);
            validate(&mut finetune, 2, 3);
            let error = run_on(&finetune, folder.path(), ONE, &registry()).remove(0).unwrap_err();
            assert_eq!(
                (error.to_string(), error.exit_code()),
                (format!("refused at {at}"), exit_class::CLUSTER)
            );
            let events = events(folder.path());
            let (last, before) = (&events[events.len() - 2..], &events[events.len() - 3]);
            assert!(before.starts_with(&format!("a: {at}")), "{before}");
            for (line, name) in last.iter().zip(["a: ", "b: "]) {
                assert!(line.starts_with(&format!("{name}failure: refused at {at}")), "{line}");
            }
            assert!(!folder.path().join("report.json").exists());
        }
    });
}

#[test]
fn states_are_saved_and_restored() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = recorded(folder.path(), &[json!({}), json!({ "name": "b: " })]);
        finetune.log.ckpt.every_n_train_steps = Some(2);
        let first = run_on(&finetune, &folder.path().join("first"), ONE, &registry()).remove(0).unwrap();
        let states = |path: &Path| CheckpointFolder::open(path).unwrap().state.progress.callbacks;
        let after_2 = folder.path().join("first/checkpoints/default--step=1-consumed_samples=16");
        // The start of training, and two hooks for each step. A checkpoint is written before its hook.
        assert_eq!(states(&after_2), [json!({ "seen": 5 }), json!({ "seen": 5 })]);
        let expected = states(&first.checkpoint.unwrap());
        assert_eq!(expected[0], json!({ "seen": 10 }));
        finetune.resume.resume_from_path = Some(after_2);
        let second = run_on(&finetune, &folder.path().join("second"), ONE, &registry())
            .remove(0)
            .unwrap();
        // The first run called the checkpoint's hook meanwhile, the second that of the start.
        assert_eq!(states(&second.checkpoint.unwrap()), expected);
    });
}

/// Checks that these callbacks are refused, with all of `expect` in the reason.
fn check_refusal(registry: &Registry, callbacks: Vec<neva_schemas::CallbackConfig>, expect: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    finetune.trainer.callbacks = callbacks;
    let error = run_on(&finetune, folder.path(), ONE, registry).remove(0).unwrap_err();
    assert_eq!(error.exit_code(), exit_class::INPUT);
    for part in expect {
        assert!(error.to_string().contains(part), "{error}\nlacks: {part}");
    }
    assert_eq!(names(folder.path()), Vec::<String>::new(), "the run began");
}

#[test]
fn names_and_arguments_must_fit() {
    within_limit(|| {
        let unknown = "this rank program has no callback `my::Heartbeat`";
        check_refusal(
            &Registry::builtin(),
            vec![custom("my::Heartbeat", json!({}))],
            &[
                "finetune.trainer.callbacks[0]._target_",
                unknown,
                "NEVA_RANK names the program that has it",
            ],
        );
        check_refusal(
            &registry(),
            vec![custom("my::Heartbeat", json!({}))],
            &[unknown, "it has tests::Recorder"],
        );
        check_refusal(
            &registry(),
            vec![
                custom(RECORDER, json!({ "file": 7 })),
                custom(RECORDER, json!({})),
                custom(RECORDER, json!({ "file": "f", "every": 3 })),
            ],
            &[
                "finetune.trainer.callbacks[0]: tests::Recorder: invalid type: integer `7`",
                "finetune.trainer.callbacks[1]: tests::Recorder: missing field `file`",
                "finetune.trainer.callbacks[2]: tests::Recorder: unknown field `every`",
            ],
        );
    });
}
