//! bf16-mixed against Hugging Face's model under `torch.autocast`: tests/fixtures/precision.py.

use crate::case::{HfBatch, close, finetune, json, model, on_mesh, roots, trainer};
use neva_engine::checkpoint::TensorFile;
use neva_schemas::{AdamW, MixedPrecision, Optim, ParallelSizes, Plugins, Precision};

#[test]
fn golden_bf16_losses_follow_autocast() {
    let root = roots().remove(0);
    let trace = json(&root.with_file_name("precision.json"));
    let folder = root.join(trace["case"].as_str().unwrap());
    let model = model(&folder).unwrap();
    let losses = |precision| {
        let mut finetune = finetune(&folder, model.clone());
        finetune.trainer.plugins = Plugins::MixedPrecision(MixedPrecision {
            precision,
            ..MixedPrecision::default()
        });
        finetune.optim = Optim::AdamW(AdamW {
            weight_decay: 0.0,
            betas: (0.9, 0.999),
            eps: 1e-8,
            clip_grad: 1.0,
            ..AdamW::default()
        });
        let rate = trace["rate"].as_f64().unwrap();
        let train = |mesh: neva_engine::comm::Mesh| {
            let mut trainer = trainer(&finetune, mesh);
            let batches = TensorFile::open(&root.join("train_batches.safetensors")).unwrap();
            let step = |step: u64| {
                let batch = HfBatch::read(&batches, &format!("batch{}.", step % 5)).microbatch(&model);
                trainer.step(&[batch], |_| rate, step).unwrap().loss.unwrap()
            };
            (0..50).map(step).collect::<Vec<_>>()
        };
        on_mesh(ParallelSizes::ONE, train).remove(0)
    };
    for (key, precision, bound) in [("fp32", Precision::Fp32, 1e-3), ("autocast_bf16", Precision::Bf16Mixed, 1e-2)] {
        let expected: Vec<_> = trace[key].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
        let got = losses(precision);
        assert_eq!(got.len(), expected.len());
        for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
            close(&format!("{key}: loss of step {step}"), *got, *expected, bound, 0.0);
        }
        assert!(got[49] < got[0] / 3.0, "{key}: the loss falls");
    }
}
