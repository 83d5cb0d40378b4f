//! A run saves on a stop request, and resumes later as if it had not been interrupted.

use crate::setting::{ONE, STOP, bits, custom, logged_steps, names, plan, run_on, small, within_limit};
use neva_engine::checkpoint::CheckpointFolder;
use neva_engine::{Callback, EngineError, Flow, Registry, Result, RunView, StopRequest, engine};
use neva_schemas::{Engine, Finetune, ParallelSizes, RankEnv, RunReport};
use neva_track::StepMetrics;
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// Acts after a step, on the first rank or on the others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    steps: u64,
    first: bool,
    what: What,
}

#[derive(Debug, Deserialize)]
enum What {
    /// Requests a stop of the run.
    Ask,
    /// Fails like a killed run, without a save.
    Fail,
}

impl Callback for After {
    fn on_step_end(&mut self, run: RunView<'_>, _: &StepMetrics) -> Result<Flow> {
        if run.progress.steps_done == self.steps && run.is_first == self.first {
            match self.what {
                What::Ask => STOP.with_borrow(StopRequest::stop),
                What::Fail => return Err(EngineError::Machine("killed".into())),
            }
        }
        Ok(Flow::Continue)
    }
}

fn registry() -> Registry {
    Registry::builtin().callback::<After>("tests::After")
}

fn after(finetune: &Finetune, steps: u64, first: bool, what: &str) -> Finetune {
    let mut finetune = finetune.clone();
    finetune.trainer.callbacks = vec![custom("tests::After", json!({ "steps": steps, "first": first, "what": what }))];
    finetune
}

/// Runs six steps in a layout. All ranks must return the same report.
fn report(finetune: &Finetune, run_dir: &Path, sizes: ParallelSizes) -> RunReport {
    let mut ranks = run_on(finetune, run_dir, sizes, &registry());
    let first = ranks.remove(0).unwrap();
    for other in ranks {
        assert_eq!(other.unwrap(), first);
    }
    first
}

fn check(sizes: ParallelSizes, steps: u64, first: bool, save_every: Option<u64>) {
    let what = format!("{sizes:?}, stopped after {steps} steps, saved every {save_every:?}");
    let folder = tempfile::tempdir().unwrap();
    let mut finetune = small();
    finetune.log.ckpt.every_n_train_steps = save_every;
    let expected = bits(&report(&finetune, &folder.path().join("whole/1"), sizes).losses);
    let asked = after(&finetune, steps, first, "Ask");
    let (own, other) = (folder.path().join("runs/1"), folder.path().join("runs/2"));
    let stopped = report(&asked, &own, sizes);
    assert_eq!(
        (stopped.steps, stopped.stopped.as_deref(), stopped.ended_early),
        (steps, Some("a request"), None),
        "{what}"
    );
    assert_eq!(bits(&stopped.losses), expected[..steps as usize], "{what}");
    let progress = CheckpointFolder::open(&stopped.checkpoint.unwrap()).unwrap().state.progress;
    assert_eq!(
        (progress.steps_done, progress.consumed_samples, progress.finished),
        (steps, 8 * steps, false),
        "{what}"
    );
    assert_eq!(logged_steps(&own), (0..steps).collect::<Vec<_>>(), "{what}");
    // From another folder first: the run there finds the newest checkpoint of its name.
    let mut elsewhere = asked.clone();
    elsewhere.resume.resume_if_exists = true;
    let resumed = report(&elsewhere, &other, sizes);
    assert_eq!(
        (bits(&resumed.losses), resumed.stopped),
        (expected[steps as usize..].to_vec(), None),
        "{what}"
    );
    assert_eq!(logged_steps(&other), (steps..6).collect::<Vec<_>>(), "{what}");
    // In its own folder, as a retry does.
    let resumed = report(&asked, &own, sizes);
    assert_eq!(
        (bits(&resumed.losses), resumed.stopped),
        (expected[steps as usize..].to_vec(), None),
        "{what}"
    );
    assert_eq!(logged_steps(&own), (0..6).collect::<Vec<_>>(), "{what}");
}

#[test]
fn a_request_stops_the_run_after_the_step() {
    within_limit(|| {
        check(ONE, 1, true, None);
        check(ONE, 4, true, Some(4));
        check(ONE, 5, true, Some(2));
    });
}

#[test]
fn a_request_to_any_rank_stops_all() {
    within_limit(|| {
        for sizes in [ParallelSizes { dp: 2, ..ONE }, ParallelSizes { tp: 2, ..ONE }] {
            check(sizes, 3, false, None);
        }
    });
}

#[test]
fn a_request_after_the_last_step_is_ignored() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let report = report(&after(&small(), 6, true, "Ask"), folder.path(), ONE);
        assert_eq!((report.steps, report.stopped), (6, None));
    });
}

#[test]
fn a_request_before_the_first_step_saves_no_checkpoint() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let finetune = small();
        let request = StopRequest::default();
        let train = |request: &StopRequest| {
            let engine = engine().stop(request.clone());
            engine.train(&plan(&finetune, folder.path()), &RankEnv::single()).unwrap()
        };
        request.stop();
        let stopped = train(&request);
        assert_eq!(
            (stopped.steps, stopped.stopped.as_deref(), stopped.checkpoint),
            (0, Some("a request"), None)
        );
        assert_eq!(names(&folder.path().join("checkpoints")), Vec::<String>::new());
        assert_eq!(train(&StopRequest::default()).losses.len(), 6);
    });
}

#[test]
fn steps_after_the_last_checkpoint_are_repeated() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut finetune = small();
        finetune.log.ckpt.every_n_train_steps = Some(2);
        let expected = report(&finetune, &folder.path().join("whole"), ONE);
        let own = folder.path().join("own");
        let killed = after(&finetune, 5, true, "Fail");
        assert!(run_on(&killed, &own, ONE, &registry()).remove(0).is_err());
        assert_eq!(logged_steps(&own), [0, 1, 2, 3, 4]);
        // A line that the kill truncated.
        let metrics = own.join(neva_schemas::METRICS_FILE);
        let text = std::fs::read_to_string(&metrics).unwrap();
        std::fs::write(&metrics, text + "{\"step\": 5, \"reduced").unwrap();
        finetune.trainer.callbacks.clear();
        let resumed = report(&finetune, &own, ONE);
        assert_eq!(bits(&resumed.losses), bits(&expected.losses)[4..]);
        assert_eq!(logged_steps(&own), [0, 1, 2, 3, 4, 5]);
    });
}
