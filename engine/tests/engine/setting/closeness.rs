//! Comparisons of values within a tolerance.

use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Asserts that each value is within `tolerance` of the expected one, relative to it.
#[track_caller]
pub(crate) fn close(what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (got - expected).abs() / expected.abs().max(1e-9);
        assert!(
            off <= tolerance,
            "{what}: value {index} is {got:e}, expected {expected:e}: off by {off:e}"
        );
    }
}

/// Returns the largest difference of two tensors, relative to the largest value of the second.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    if a.numel() == 0 {
        return 0.0;
    }
    let (a, b) = (a.detach().to_kind(Kind::Double), b.detach().to_kind(Kind::Double));
    ((&a - &b).abs().max() / b.abs().max().clamp_min(1e-30)).double_value(&[])
}

/// Asserts that two sets of tensors have the same names and, nearly, the same values.
#[track_caller]
pub(crate) fn close_tensors(what: &str, got: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>, tolerance: f64) {
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        // Softmax ignores a key's bias: Adam turns its rounding noise into steps of the learning rate.
        if name.contains("vision_tower") && name.ends_with("k_proj.bias") {
            continue;
        }
        let off = difference(&got[name], expected);
        assert!(off <= tolerance, "{what}: `{name}` is off by {off:e}");
    }
}
