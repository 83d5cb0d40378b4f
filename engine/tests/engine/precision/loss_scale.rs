//! The loss scale against the traces of tests/fixtures/precision.py.

use neva_engine::optim::LossScaler;
use neva_schemas::LossScale;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Returns the traces of one kind.
fn traces(kind: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/precision.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file[kind].as_array().unwrap().clone()
}

/// Compares the scale after each step, on the same overflows. Returns the number of changes.
#[track_caller]
fn follows(trace: &Value, settings: LossScale) -> usize {
    let overflows: BTreeSet<_> = trace["overflows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step.as_u64().unwrap())
        .collect();
    let mut scaler = LossScaler::new(settings);
    let mut changes = 0;
    for (step, expected) in trace["log2_scales"].as_array().unwrap().iter().enumerate() {
        let before = scaler.scale();
        scaler.update(overflows.contains(&(step as u64)));
        let expected = 2f64.powi(expected.as_i64().unwrap() as i32);
        assert_eq!(scaler.scale(), expected, "{settings:?} after step {step}");
        changes += usize::from(scaler.scale() != before);
    }
    changes
}

#[test]
fn the_scale_is_that_of_torch_amp_grad_scaler() {
    let traces = traces("grad_scaler");
    assert_eq!(traces.len(), 4);
    for trace in traces {
        let changes = follows(
            &trace,
            LossScale {
                constant: None,
                initial: trace["initial"].as_f64().unwrap(),
                // torch has no smallest scale.
                min: 2f64.powi(-126),
                window: trace["window"].as_u64().unwrap(),
                hysteresis: 1,
            },
        );
        assert!(changes > 0, "the scale never changes: {trace}");
    }
}

#[test]
fn hysteresis_and_smallest_scale_are_megatrons() {
    for trace in traces("dynamic_grad_scaler") {
        let changes = follows(
            &trace,
            LossScale {
                constant: None,
                initial: trace["initial"].as_f64().unwrap(),
                min: trace["min"].as_f64().unwrap(),
                window: trace["window"].as_u64().unwrap(),
                hysteresis: trace["hysteresis"].as_u64().unwrap() as u32,
            },
        );
        assert!(changes > 2, "the scale hardly changes: {trace}");
    }
}

#[test]
fn a_constant_scale_stays() {
    let mut scaler = LossScaler::new(LossScale {
        constant: Some(128.0),
        initial: 4.0,
        min: 1.0,
        window: 1,
        hysteresis: 1,
    });
    for overflow in [true, false, false, true] {
        scaler.update(overflow);
        assert_eq!((scaler.scale(), scaler.can_fall()), (128.0, false));
    }
}
