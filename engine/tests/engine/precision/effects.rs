//! The report of what ran, and requirements of it.

use crate::setting::{ONE, Samples, lay_out, lora, microbatches, mock, on_mesh, precision, run, small, tiny, trainer, within_limit};
use neva_engine::nn::OutputPositions;
use neva_schemas::{EFFECTS_FILE, Finetune, Fp8Format, Fp8Recipe, ParallelSizes, Precision, exit_class};
use serde_json::{Value, json};
use std::path::Path;
use tch::Tensor;

/// Returns the operations of a decoder's linears in a forward pass over `positions` positions, of which the last layer computes
/// `outputs`, and all keys and values.
fn decoder_flops(finetune: &Finetune, positions: f64, outputs: f64) -> f64 {
    let text = &finetune.model.as_llava().unwrap().text_config;
    let (h, i, d) = (text.hidden_size, text.intermediate_size, text.head_dim());
    let keys_values = (2 * h * d * text.num_key_value_heads) as f64;
    let others = (2 * h * d * text.num_attention_heads + 3 * h * i) as f64;
    let layers = text.num_hidden_layers as f64;
    2.0 * (layers * positions * keys_values + ((layers - 1.0) * positions + outputs) * others)
}

fn group(report: &Value, name: &str) -> Vec<(String, f64)> {
    let gemms = report["gemms"].as_array().unwrap().iter().filter(|gemm| gemm["group"] == name);
    gemms
        .map(|gemm| (gemm["kind"].as_str().unwrap().to_owned(), gemm["flops"].as_f64().unwrap()))
        .collect()
}

/// Counts what each layout computes: forward, and the gradients of inputs and of trained weights.
#[test]
fn products_are_counted_in_all_layouts() {
    within_limit(|| {
        for (adapters, recompute) in [(false, false), (true, false), (false, true)] {
            for sizes in [
                ONE,
                ParallelSizes { dp: 2, ..ONE },
                ParallelSizes { tp: 2, ..ONE },
                ParallelSizes { cp: 2, ..ONE },
                ParallelSizes { pp: 2, ..ONE },
            ] {
                let mut finetune = small();
                precision(&mut finetune, Precision::Bf16Mixed);
                lay_out(&mut finetune, sizes);
                if adapters {
                    lora(&mut finetune);
                }
                if recompute {
                    finetune.trainer.strategy.recompute_granularity = Some(neva_schemas::RecomputeGranularity::Full);
                }
                let samples = Samples::of(&finetune);
                let (reports, counts): (Vec<_>, Vec<_>) = on_mesh(sizes, |mesh| {
                    let mut trainer = trainer(&finetune, mesh.clone());
                    let batches = microbatches(&finetune, &samples, &mesh, 0);
                    let labels = batches.iter().map(|batch| &batch.batch.labels_bs);
                    let outputs = |labels: &Tensor| OutputPositions::labelled(labels).count().unwrap_or(labels.numel());
                    let counts = labels.map(|labels| [labels.numel(), outputs(labels)]);
                    let counts = counts.fold([0.0; 2], |sums, counts| [0, 1].map(|index| sums[index] + counts[index] as f64));
                    trainer.step(&batches, |_| 1e-3, 0).unwrap();
                    (serde_json::to_value(trainer.effects().unwrap()).unwrap(), counts)
                })
                .into_iter()
                .unzip();
                let what = format!("{sizes:?}, adapters: {adapters}, recompute: {recompute}");
                assert!(reports.iter().all(|report| *report == reports[0]), "{what}: ranks report the same");
                let report = &reports[0];
                // Ranks of a tensor- or pipeline-parallel group have the same positions.
                let copies = f64::from(sizes.tp * sizes.pp);
                let [positions, outputs] = [0, 1].map(|index| counts.iter().map(|counts| counts[index]).sum::<f64>() / copies);
                assert!(0.0 < outputs && outputs < positions, "{what}");
                let layers = finetune.model.as_llava().unwrap().text_config.num_hidden_layers;
                // Forward, input gradient, weight gradient; frozen weights have none.
                let passes = if adapters { 2.0 } else { 3.0 } + f64::from(u8::from(recompute));
                let expected = passes * decoder_flops(&finetune, positions, outputs);
                let found = group(report, "decoder linears");
                assert_eq!(found.len(), 1, "{what}: {report}");
                assert_eq!(found[0].0, "bfloat16", "{what}");
                assert!(
                    (found[0].1 / expected - 1.0).abs() < 1e-9,
                    "{what}: {} against {expected}",
                    found[0].1
                );
                assert_eq!(report["fp8_share"], 0.0, "{what}");
                assert_eq!(group(report, "adapters").is_empty(), !adapters, "{what}");
                assert!(
                    !group(report, "head").is_empty() && !group(report, "vision encoder").is_empty(),
                    "{what}: {report}"
                );
                let attached = report["adapters"]["attached"].as_array().unwrap().len();
                assert_eq!(attached, if adapters { 7 * layers } else { 0 }, "{what}");
                assert_eq!(report["adapters"]["missing"], json!([]), "{what}");
                assert_eq!(report["gradients"]["without"], json!([]), "{what}");
                assert_eq!(report["packing"]["samples"], report["packing"]["rows"], "{what}");
            }
        }
    });
}

fn effects(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(EFFECTS_FILE)).unwrap()).unwrap()
}

#[test]
fn a_run_writes_its_effects_and_fails_without_what_it_requires() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut packed = small();
        lora(&mut packed);
        let data = mock(&mut packed);
        (data.use_packed_sequence, data.micro_batch_size, data.seq_length) = (true, 4, 64);
        packed.trainer.max_steps = Some(2);
        packed.trainer.require = ["adapters", "gradients", "packing", "packing>=0.1"].map(str::to_owned).to_vec();
        run(&packed, &folder.path().join("met")).unwrap();
        let report = effects(&folder.path().join("met"));
        assert_eq!(report["format"], 1);
        assert!(
            report["packing"]["samples"].as_f64() > report["packing"]["rows"].as_f64(),
            "{report}"
        );
        let fill = report["packing"]["fill"].as_f64().unwrap();
        assert!((0.1..=1.0).contains(&fill), "{report}");
        // All at once, as in the documents; without FP8 its name alone is reported.
        packed.trainer.require = ["fp8>=0.95", "adapters", "packing"].map(str::to_owned).to_vec();
        let failure = run(&packed, &folder.path().join("without fp8")).unwrap_err();
        assert_eq!((failure.class, failure.step), (exit_class::JOB, Some(0)));
        let text = failure.to_string();
        assert!(
            text.contains("`fp8>=0.95`: 0.0 %") && !text.contains("`packing`") && !text.contains("`adapters`"),
            "{text}"
        );
        precision(&mut packed, Precision::Bf16Mixed);
        let plugin = packed.trainer.mixed_precision_mut();
        (plugin.fp8, plugin.fp8_emulate) = (Some(Fp8Format::Hybrid), true);
        run(&packed, &folder.path().join("with fp8")).unwrap();
        assert_eq!(effects(&folder.path().join("with fp8"))["fp8_share"], 1.0);
        let mut plain = small();
        plain.trainer.max_steps = Some(3);
        for (index, (require, expect)) in [
            (&["fp8>=0.95"][..], "`fp8>=0.95`: 0.0 %"),
            (&["fp8"], "`fp8`"),
            (&["adapters"], "`adapters`: the run has none"),
            (&["packing"], "`packing`: no two samples shared a row"),
            (&["attention=fused"], "`attention=fused`"),
            (
                &["gradients", "adapters", "fp8"],
                "`adapters`: the run has none; set peft_scheme=lora, or finetune.peft; `fp8`",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let dir = folder.path().join(index.to_string());
            plain.trainer.require = require.iter().map(|text| (*text).to_owned()).collect();
            let failure = run(&plain, &dir).unwrap_err();
            assert_eq!(failure.class, exit_class::JOB, "{require:?}");
            assert!(failure.to_string().contains(expect), "{require:?}: {failure}");
            assert_eq!(failure.step, Some(0), "{require:?}: after the first step");
            assert_eq!(effects(&dir)["fp8_share"], 0.0);
        }
        plain.trainer.require = vec!["gradients".into()];
        run(&plain, &folder.path().join("gradients")).unwrap();
    });
}

/// A parameter that no batch reaches is named.
#[test]
fn parameters_without_a_gradient_are_named() {
    within_limit(|| {
        let finetune = small();
        let samples = Samples::edited(&finetune, |_, sample| crate::setting::without_image(sample));
        let mut reports = on_mesh(ONE, |mesh| {
            let mut trainer = trainer(&finetune, mesh.clone());
            trainer.step(&microbatches(&finetune, &samples, &mesh, 0), |_| 1e-3, 0).unwrap();
            trainer.effects().unwrap()
        });
        let gradients = reports.remove(0).gradients;
        assert!(gradients.without.len() < gradients.trained);
        assert!(
            gradients.without.iter().any(|name| name.contains("multi_modal_projector")),
            "{:?}",
            gradients.without
        );
    });
}

/// The share is that of the layers in FP8, in forward and backward passes, and a requirement reads it.
#[test]
fn the_fp8_share_is_that_of_the_layers_in_fp8() {
    within_limit(|| {
        let folder = tempfile::tempdir().unwrap();
        for (edges, adapters, expected) in [(0, false, 1.0), (1, false, 0.5), (1, true, 0.5)] {
            let mut finetune = tiny();
            precision(&mut finetune, Precision::Bf16Mixed);
            if adapters {
                lora(&mut finetune);
            }
            let plugin = finetune.trainer.mixed_precision_mut();
            (plugin.fp8, plugin.fp8_recipe, plugin.fp8_emulate) = (Some(Fp8Format::Hybrid), Fp8Recipe::Tensorwise, true);
            (plugin.first_last_layers_bf16, plugin.num_layers_at_start_in_bf16) = (edges > 0, edges);
            plugin.num_layers_at_end_in_bf16 = edges;
            finetune.trainer.max_steps = Some(1);
            let dir = |name: &str| folder.path().join(format!("{name} {edges} {adapters}"));
            finetune.trainer.require = vec![format!("fp8>={}", expected - 0.02)];
            run(&finetune, &dir("met")).unwrap();
            let share = effects(&dir("met"))["fp8_share"].as_f64().unwrap();
            assert!(
                (share - expected).abs() < 0.02,
                "{edges} edge layers, adapters: {adapters}: {share}"
            );
            if edges > 0 {
                finetune.trainer.require = vec!["fp8>=0.95".into()];
                let failure = run(&finetune, &dir("unmet")).unwrap_err();
                assert_eq!(failure.class, exit_class::JOB);
                assert!(failure.to_string().contains("`fp8>=0.95`: 50.0 %"), "{failure}");
            }
        }
    });
}
