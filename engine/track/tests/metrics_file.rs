//! `metrics.jsonl`: contents of a line, and lines kept by a resumed run.

mod metrics;

use std::fs;

use metrics::{step, validation};
use neva_track::{Logger, MetricsFile, Outcome, StepMetrics, ValidationMetrics};

#[test]
fn lines_have_nemos_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut file = MetricsFile::open(&path, 0).unwrap();
    // JSON has no NaN.
    let overflowed = StepMetrics {
        reduced_train_loss: Some(f64::NAN),
        ..step(0)
    };
    file.step(&overflowed).unwrap();
    file.validation(&validation(0)).unwrap();
    file.finish(Outcome::Failed).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        concat!(
            r#"{"step":0,"reduced_train_loss":null,"lr":0.0,"grad_norm":1.5,"consumed_samples":32,"train_step_timing in s":0.25,"#,
            r#""tokens/s":4096.0,"data_wait in s":0.125,"row_fill":0.5,"samples":32,"label_tokens":100,"zero_label_samples":0,"text_only_microbatches":0,"skipped_steps":0,"peak_memory_gib":2.5}"#,
            "\n",
            r#"{"step":0,"val_loss":4.0,"val_label_tokens":10,"val_samples":2,"validation_timing in s":0.5}"#,
            "\n"
        )
    );
}

#[test]
fn unmeasured_values_are_null() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut file = MetricsFile::open(&path, 0).unwrap();
    let unlabelled = StepMetrics {
        reduced_train_loss: None,
        grad_norm: None,
        ..step(0)
    };
    let without_loss = ValidationMetrics {
        val_loss: None,
        ..validation(0)
    };
    file.step(&unlabelled).unwrap();
    file.validation(&without_loss).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with(r#"{"step":0,"reduced_train_loss":null,"lr":0.0,"grad_norm":null,"#),
        "{text}"
    );
    assert!(lines[1].starts_with(r#"{"step":0,"val_loss":null,"#), "{text}");
}

#[test]
fn a_resumed_run_keeps_the_steps_before_it() {
    #[track_caller]
    fn check(before: &str, first_step: u64, expect: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, before).unwrap();
        let mut file = MetricsFile::open(&path, first_step).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expect);
        file.validation(&validation(first_step)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), expect.lines().count() + 1);
    }
    let three = "{\"step\":0}\n{\"step\":1}\n{\"step\":1,\"val_loss\":2}\n{\"step\":2}\n";
    check("", 0, "");
    check(three, 3, three);
    check(three, 2, "{\"step\":0}\n{\"step\":1}\n{\"step\":1,\"val_loss\":2}\n");
    check(three, 0, "");
    // A killed process left an incomplete line.
    check("{\"step\":0}\n{\"step\":1", 2, "{\"step\":0}\n");
}
