//! Event files, read by the real TensorBoard.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod environment;
mod metrics;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use metrics::{step, validation};
use neva_track::{Logger, Outcome, StepMetrics, TensorBoard, ValidationMetrics};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Read {
    version: f64,
    scalars: BTreeMap<String, Vec<(u64, String)>>,
}

impl Read {
    /// Steps and values by tag; values are in Python's notation, since JSON has no NaN.
    #[track_caller]
    fn curve(&self, tag: &str) -> Vec<(u64, f64)> {
        let points = self
            .scalars
            .get(tag)
            .unwrap_or_else(|| panic!("no tag {tag:?} in {:?}", self.scalars.keys()));
        points.iter().map(|(step, value)| (*step, value.parse().expect(value))).collect()
    }
}

/// Reads `folder` with TensorBoard.
#[track_caller]
fn read(folder: &Path) -> Read {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read_scalars.py");
    let output = Command::new(environment::python())
        .arg("-B")
        .arg(script)
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn tensorboard_shows_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("run/tb_logs");
    let mut board = TensorBoard::create(&folder, 0).unwrap();
    for number in 0..3 {
        board.step(&step(number)).unwrap();
    }
    board.validation(&validation(2)).unwrap();
    // Before anything is finished or closed, as for a running TensorBoard.
    let found = read(&folder);
    assert_eq!(found.version, 2.0);
    assert_eq!(found.curve("val_loss"), [(2, 6.0)]);
    assert_eq!(found.curve("validation_timing in s"), [(2, 0.5)]);
    for (index, (tag, _)) in step(0).scalars().into_iter().enumerate() {
        let expect = (0..3).map(|number| (number, f64::from(step(number).scalars()[index].1 as f32)));
        assert_eq!(found.curve(tag), expect.collect::<Vec<_>>(), "{tag}");
    }
    assert_eq!(found.scalars.len(), step(0).scalars().len() + validation(0).scalars().len());

    board.finish(Outcome::Finished).unwrap();
    assert_eq!(read(&folder).curve("lr"), [(0, 0.0), (1, 0.0), (2, 0.0)]);
}

#[test]
fn a_resumed_run_replaces_repeated_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = TensorBoard::create(dir.path(), 0).unwrap();
    for number in 0..5 {
        first.step(&step(number)).unwrap();
    }
    let mut second = TensorBoard::create(dir.path(), 3).unwrap();
    assert_ne!(first.path(), second.path());
    let changed = StepMetrics {
        reduced_train_loss: Some(1.0),
        ..step(3)
    };
    second.step(&changed).unwrap();
    assert_eq!(
        read(dir.path()).curve("reduced_train_loss"),
        [(0, 8.0), (1, 4.0), (2, f64::from((8.0_f64 / 3.0) as f32)), (3, 1.0)]
    );
}

#[test]
fn a_nan_loss_is_shown_as_nan() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), 0).unwrap();
    for (number, loss) in (0..).zip([f64::NAN, f64::INFINITY, -1.0]) {
        let metrics = StepMetrics {
            reduced_train_loss: Some(loss),
            ..step(number)
        };
        board.step(&metrics).unwrap();
    }
    let curve = read(dir.path()).curve("reduced_train_loss");
    assert!(curve[0].1.is_nan(), "{curve:?}");
    assert_eq!(curve[1..], [(1, f64::INFINITY), (2, -1.0)]);
}

#[test]
fn an_unmeasured_value_has_no_point() {
    let dir = tempfile::tempdir().unwrap();
    let mut board = TensorBoard::create(dir.path(), 0).unwrap();
    let unlabelled = StepMetrics {
        reduced_train_loss: None,
        grad_norm: None,
        ..step(1)
    };
    for metrics in [step(0), unlabelled, step(2)] {
        board.step(&metrics).unwrap();
    }
    let validation = ValidationMetrics {
        val_loss: None,
        ..validation(2)
    };
    board.validation(&validation).unwrap();
    let found = read(dir.path());
    let steps = |tag: &str| found.curve(tag).into_iter().map(|(step, _)| step).collect::<Vec<_>>();
    assert_eq!((steps("reduced_train_loss"), steps("grad_norm")), (vec![0, 2], vec![0, 2]));
    assert_eq!((steps("lr"), steps("validation_timing in s")), (vec![0, 1, 2], vec![2]));
    assert!(!found.scalars.contains_key("val_loss"));
}

#[test]
fn a_folder_that_cannot_be_created_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = TensorBoard::create(&file.join("tb_logs"), 0).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot create {}", file.join("tb_logs").display()));
}
