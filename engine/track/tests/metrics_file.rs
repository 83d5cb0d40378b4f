//! `metrics.jsonl`: what a line holds, and what a resumed run keeps.

mod metrics;

use std::fs;

use metrics::{step, validation};
use neva_track::{Logger, MetricsFile, Outcome, StepMetrics};

#[test]
fn lines_have_nemos_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    let mut file = MetricsFile::open(&path, 0).unwrap();
    // JSON has no NaN.
    let overflowed = StepMetrics {
        reduced_train_loss: f64::NAN,
        ..step(0)
    };
    file.step(&overflowed).unwrap();
    file.validation(&validation(0)).unwrap();
    file.finish(Outcome::Failed).unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        concat!(
            r#"{"step":0,"reduced_train_loss":null,"lr":0.0,"grad_norm":1.5,"consumed_samples":32,"train_step_timing in s":0.25,"#,
            r#""tokens/s":4096.0,"label_tokens":100,"zero_label_samples":0,"text_only_microbatches":0,"skipped_steps":0,"peak_memory_gib":2.5}"#,
            "\n",
            r#"{"step":0,"val_loss":4.0,"val_label_tokens":10,"val_samples":2,"validation_timing in s":0.5}"#,
            "\n"
        )
    );
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
    // A process that was killed left half a line.
    check("{\"step\":0}\n{\"step\":1", 2, "{\"step\":0}\n");
}
