//! The last layer computes its queries and its MLP at labelled positions only, which changes no loss and no gradient.

use crate::layout::{Layout, four_layers, mixed, pipeline};
use crate::recompute::{recompute_settings, with_recompute};
use crate::setting::{
    ONE, Samples, adapters, close, difference, loaded, lora, microbatches, mock, on_mesh, precision, small, trainer, within_limit,
};
use neva_engine::batch::Batch;
use neva_engine::comm::Mesh;
use neva_engine::nn::OutputPositions;
use neva_engine::sample_keys::SampleKeys;
use neva_engine::trainer::LoadedModel;
use neva_schemas::{DropoutPosition, Finetune, Fp8Format, LoRA, LoraInit, Precision, TextModelType};
use neva_torch_ffi::grad;
use std::sync::Arc;
use tch::Tensor;

/// Loss, and its gradient in every trainable parameter that it reaches.
fn loss_and_gradients(
    loaded: &LoadedModel,
    batch: &Batch,
    keys: Option<&Arc<SampleKeys>>,
    outputs: &OutputPositions,
) -> (f64, Vec<Option<Tensor>>) {
    let (model, head) = loaded.whole().unwrap();
    let forward = || model.forward_at(batch, None, outputs).unwrap();
    let hidden = loaded.with_sample_keys(keys, outputs, forward);
    let loss = head.loss_sum(&hidden, &outputs.select(&batch.labels_bs).unwrap()).unwrap().unwrap();
    let inputs: Vec<_> = loaded.parameters.trainable().map(|parameter| &parameter.tensor).collect();
    (loss.double_value(&[]), grad(&[&loss], &[None], &inputs, false).unwrap())
}

/// Compares labelled positions with all of them, on two microbatches.
#[track_caller]
fn check(name: &str, finetune: &Finetune) {
    let loaded = loaded(finetune, &Mesh::single());
    let samples = Samples::edited(finetune, mixed);
    let mut compared = 0;
    for microbatch in microbatches(finetune, &samples, &Mesh::single(), 0).iter().take(2) {
        let batch = &microbatch.batch;
        let outputs = OutputPositions::labelled(&batch.labels_bs);
        // Text alone may have a label at each position.
        if outputs.count().is_none_or(|count| count == 0) {
            continue;
        }
        let of = |outputs: &OutputPositions| loss_and_gradients(&loaded, batch, microbatch.keys.as_ref(), outputs);
        let ((expected, all), (got, labelled)) = (of(&OutputPositions::All), of(&outputs));
        close(&format!("{name}: loss"), &[got], &[expected], 1e-6);
        for ((parameter, all), labelled) in loaded.parameters.trainable().zip(all).zip(labelled) {
            let name = format!("{name}: gradient of {}", parameter.spec.name);
            // Softmax ignores a key's bias: its gradient is rounding noise.
            let is_noise = parameter.spec.name.ends_with("k_proj.bias");
            match (all, labelled) {
                (Some(all), Some(labelled)) if !is_noise => {
                    let off = difference(&labelled, &all);
                    assert!(off <= 1e-5, "{name} is off by {off:e}");
                    compared += 1;
                }
                (all, labelled) => assert_eq!(all.is_some(), labelled.is_some(), "{name}"),
            }
        }
    }
    assert!(compared > 0, "{name}");
}

/// Returns a run with adapters on all linears of the language model, whose B is not 0.
fn adapted(change: impl FnOnce(&mut LoRA)) -> Finetune {
    let mut finetune = small();
    adapters(
        &mut finetune,
        &["linear_qkv", "linear_proj", "gate_proj", "up_proj", "down_proj", "linear_1"],
    );
    let lora = finetune.peft.as_mut().unwrap().lora_mut();
    lora.lora_b_init = LoraInit::Normal;
    change(lora);
    finetune
}

#[test]
fn labelled_positions_alone_give_the_same_loss_and_gradients() {
    within_limit(|| {
        check("whole model", &small());
        let mut packed = small();
        let data = mock(&mut packed);
        (data.use_packed_sequence, data.micro_batch_size, data.seq_length) = (true, 4, 96);
        check("packed", &packed);
        let mut windowed = small();
        windowed.model.as_llava_mut().unwrap().text_config.sliding_window = Some(7);
        check("window", &windowed);
        let mut nemotron = small();
        nemotron.model.as_llava_mut().unwrap().text_config.model_type = Some(TextModelType::Nemotron);
        check("MLP without a gate", &nemotron);
        for way in recompute_settings() {
            let what = (way.recompute_granularity, way.recompute_method, &way.recompute_modules);
            check(&format!("recomputation {what:?}"), &with_recompute(&small(), &way));
        }
    });
}

#[test]
fn adapters_have_the_same_gradients() {
    within_limit(|| {
        check("shared A", &adapted(|_| {}));
        check("own A", &adapted(|lora| lora.target_modules[0] = "q_proj".into()));
        for position in [DropoutPosition::Pre, DropoutPosition::Post] {
            let dropping = adapted(|lora| (lora.dropout, lora.dropout_position) = (0.3, position));
            check(&format!("dropout {position:?}"), &dropping);
            let [full, ..] = recompute_settings();
            check(&format!("dropout {position:?}, recomputed"), &with_recompute(&dropping, &full));
        }
        check(
            "DoRA",
            &adapted(|lora| {
                lora.use_dora = true;
                lora.dropout = 0.2;
            }),
        );
    });
}

/// The report says which positions were computed, and where it is all of them: why.
#[test]
fn the_report_says_which_positions_were_computed() {
    within_limit(|| {
        let tp2 = Layout::plain(ONE).over(2, 1);
        for (layout, fp8, expected) in [
            (Layout::plain(ONE), false, None),
            (tp2, false, None),
            (Layout::plain(ONE).context(2), false, None),
            (pipeline(2).chunks(2), false, None),
            (tp2.sequence_parallel(), false, Some("sequence parallelism")),
            (Layout::plain(ONE), true, Some("FP8")),
        ] {
            let mut finetune = four_layers();
            lora(&mut finetune);
            if fp8 {
                precision(&mut finetune, Precision::Bf16Mixed);
                let plugin = finetune.trainer.mixed_precision_mut();
                (plugin.fp8, plugin.fp8_emulate) = (Some(Fp8Format::Hybrid), true);
            }
            let finetune = layout.of(&finetune);
            let samples = Samples::of(&finetune);
            let reports = on_mesh(layout.sizes, |mesh| {
                let mut trainer = trainer(&finetune, mesh.clone());
                let batches = microbatches(&finetune, &samples, &mesh, 0);
                trainer.step(&batches, |_| 1e-3, 0).unwrap();
                trainer.effects().unwrap().last_hidden_states
            });
            let name = format!("{layout:?}, FP8: {fp8}");
            assert!(reports.iter().all(|report| *report == reports[0]), "{name}: ranks report the same");
            assert_eq!(reports[0].all_because, expected, "{name}");
            match expected {
                Some(_) => assert_eq!(reports[0].share, 1.0, "{name}"),
                None => assert!(reports[0].share > 0.0 && reports[0].share < 1.0, "{name}: {}", reports[0].share),
            }
        }
    });
}
