//! Compares a run with its trace: losses, gradient norms and weights.

use crate::trace::{PEFT_PREFIX, Trace, read};
use neva_engine::checkpoint::{CheckpointFolder, StoredTensors, TensorFile};
use neva_layout::Families;
use neva_schemas::{LlavaModel, METRICS_FILE, Model, PARAMETERS_FILE, REPORT_FILE};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// Compares a finished run with its trace.
pub(crate) fn check(trace: &Trace, run: &Path) {
    let lines = std::fs::read_to_string(run.join(METRICS_FILE)).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (steps, validations): (Vec<_>, Vec<_>) = lines.partition(|line| line.get("val_loss").is_none());
    check_steps(trace, &steps);
    check_validation(trace, &steps, &validations);

    let checkpoint = read(&run.join(REPORT_FILE))["checkpoint"].as_str().unwrap().to_owned();
    let checkpoint = CheckpointFolder::open(Path::new(&checkpoint)).unwrap();
    check_touched(trace, &checkpoint.optimizer().unwrap());
    check_weights(trace, &checkpoint.model().unwrap());

    let table = read(&run.join(PARAMETERS_FILE));
    let trained: u64 = table
        .as_array()
        .unwrap()
        .iter()
        // PEFT also counts adapters of layers that never run.
        .map(|line| line[if line["adapts"].is_null() { "trainable" } else { "total" }].as_u64().unwrap())
        .sum();
    if let Some(expected) = trace.json["trainable"].as_u64() {
        assert_eq!(trained, expected, "{}: trained parameters", trace.name());
    }
}

fn check_steps(trace: &Trace, steps: &[Value]) {
    assert_eq!(steps.len(), trace.steps().len(), "{}: steps", trace.name());
    for (step, (line, expected)) in steps.iter().zip(trace.steps()).enumerate() {
        for (key, expected, tolerance) in [
            ("reduced_train_loss", &expected["loss"], 1e-5),
            ("grad_norm", &expected["grad_norm_before_clip"], 1e-4),
            ("lr", &expected["lr"][0], 1e-12),
        ] {
            let what = format!("{}: {key} of step {step}", trace.name());
            close(&what, number(&line[key]), number(expected), tolerance);
        }
    }
}

/// Checks the validation on the training batches after the last step. Its loss is the mean over all labels; the trace
/// has the means of the batches.
fn check_validation(trace: &Trace, steps: &[Value], validations: &[Value]) {
    let [validation] = validations else {
        panic!("{}: {} validations", trace.name(), validations.len())
    };
    let losses = trace.json["final_losses"].as_array().unwrap();
    assert_eq!(losses.len(), steps.len(), "a step for each batch");
    let labels = |line: &Value| number(&line["label_tokens"]);
    let sum: f64 = losses.iter().zip(steps).map(|(loss, step)| number(loss) * labels(step)).sum();
    let total: f64 = steps.iter().map(labels).sum();
    assert_eq!(number(&validation["val_label_tokens"]), total);
    let what = format!("{}: loss after training", trace.name());
    close(&what, number(&validation["val_loss"]), sum / total, 1e-4);
}

/// Checks the number of updates of each parameter; the trace counts the parameters of each step.
fn check_touched(trace: &Trace, optimizer: &StoredTensors) {
    let counts = optimizer.shapes().filter(|(name, _)| name.ends_with(".step"));
    let touched: f32 = counts.map(|(name, _)| stored(optimizer, name)[0]).sum();
    let expected: f64 = trace.steps().iter().map(|step| number(&step["params_with_grad"])).sum();
    assert_eq!(f64::from(touched), expected, "{}: gradients over all steps", trace.name());
}

/// Checks the weights: trained ones from the checkpoint, frozen ones from the base.
fn check_weights(trace: &Trace, trained: &StoredTensors) {
    let base = TensorFile::open(&trace.base().join("model.safetensors")).unwrap();
    let (path, prefix) = if trace.is_lora() {
        ("adapter_final/adapter_model.safetensors", PEFT_PREFIX)
    } else {
        ("final_weights.safetensors", "")
    };
    let expected = TensorFile::open(&trace.folder.join(path)).unwrap();
    // Adam amplifies the rounding noise of a key's bias to steps of the size of the learning rate.
    let noise = |name: &str| name.contains("vision_tower") && name.ends_with("k_proj.bias");
    let mut left: BTreeSet<_> = trained.shapes().map(|(name, _)| name).filter(|name| !noise(name)).collect();
    for key in expected.tensors().into_keys().filter(|key| !noise(key)) {
        let name = key.strip_prefix(prefix).unwrap();
        let found = if left.remove(name) {
            stored(trained, name)
        } else {
            values(&base, &in_base(&base, name))
        };
        let off = difference(&found, &values(&expected, &key));
        assert!(off <= 1e-3, "{}: {name} is off by {off:e} after training", trace.name());
    }
    // For a large tensor the trace may contain only the norm.
    for name in left {
        let norm = stored(trained, name)
            .into_iter()
            .map(|value| f64::from(value).powi(2))
            .sum::<f64>()
            .sqrt();
        let what = format!("{}: norm of {name}", trace.name());
        close(&what, norm, number(&trace.json["final_l2"][name]), 1e-5);
    }
}

/// Returns the base's spelling of a name.
fn in_base(base: &TensorFile, name: &str) -> String {
    let model = Model::Llava(LlavaModel::default());
    let table = Families::builtin().resolve(&model, "model").unwrap();
    let mut names = base.tensors().into_keys();
    names
        .find(|key| table.canonical_name(key).as_deref() == Some(name))
        .unwrap_or_else(|| panic!("{name} is neither trained nor in the base"))
}

fn values(file: &TensorFile, name: &str) -> Vec<f32> {
    Vec::try_from(file.read(name, None).unwrap().flatten(0, -1)).unwrap()
}

fn stored(tensors: &StoredTensors, name: &str) -> Vec<f32> {
    Vec::try_from(tensors.read_whole(name).unwrap().flatten(0, -1)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Checks `|a - b| <= tolerance * max(|b|, 1)`, with the numbers in the message.
#[track_caller]
fn close(what: &str, a: f64, b: f64, tolerance: f64) {
    let off = (a - b).abs();
    assert!(off <= tolerance * b.abs().max(1.0), "{what}: {a:e}, expected {b:e}, off by {off:e}");
}

/// Returns the maximum difference relative to the maximum expected value.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let greatest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |a, b| a.max(b.abs()));
    let off = greatest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    f64::from(off) / f64::from(greatest(&mut expected.iter().copied())).max(1e-30)
}
