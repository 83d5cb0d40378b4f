//! Losses, and weights after training, do not depend on the layout.

use crate::layout::mixed;
use crate::setting::{ONE, Samples, adapters, close, close_tensors, loaded, lora, mock, on_mesh, small, tiny, train, whole, within_limit};
use neva_schemas::{Finetune, ParallelSizes, Peft};
use tch::Kind;

const STEPS: u64 = 10;
const TP2: ParallelSizes = ParallelSizes { tp: 2, ..ONE };
const DP2: ParallelSizes = ParallelSizes { dp: 2, ..ONE };
const TP2_DP2: ParallelSizes = ParallelSizes { tp: 2, dp: 2, ..ONE };

fn tolerance(sizes: ParallelSizes) -> f64 {
    if sizes.tp == 1 { 1e-6 } else { 1e-5 }
}

#[track_caller]
fn check(name: &str, layouts: &[ParallelSizes], change: impl FnOnce(&mut Finetune)) {
    let mut finetune = small();
    change(&mut finetune);
    let samples = Samples::edited(&finetune, mixed);
    let expected = train(&finetune, &samples, ONE, STEPS);
    assert!(
        expected.losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
        "{name}: {:?}",
        expected.losses
    );
    for (sizes, sequence_parallel) in layouts.iter().flat_map(|sizes| [(*sizes, false), (*sizes, true)]) {
        if sequence_parallel && sizes.tp == 1 {
            continue;
        }
        finetune.trainer.strategy.sequence_parallel = sequence_parallel;
        let got = train(&finetune, &samples, sizes, STEPS);
        let name = format!("{name}, {sizes:?}, sequence parallel: {sequence_parallel}");
        close(&format!("{name}: loss"), &got.losses, &expected.losses, tolerance(sizes));
        close_tensors(&name, &got.weights, &expected.weights, 1e-4);
    }
}

const ALL: &[ParallelSizes] = &[TP2, DP2, TP2_DP2];

#[test]
fn whole_model_matches_one_rank() {
    within_limit(|| check("full", ALL, |_| {}));
}

#[test]
fn a_tied_head_matches_one_rank() {
    within_limit(|| {
        check("tied head", ALL, |finetune| {
            finetune.model.as_llava_mut().unwrap().text_config.tie_word_embeddings = true
        })
    });
}

#[test]
fn frozen_parts_match_one_rank() {
    within_limit(|| {
        check("frozen vision encoder", ALL, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_vision_model = true
        });
        // In the text-only step no parameter has a gradient.
        check("frozen language model", ALL, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true
        });
        check("frozen language model and projection", ALL, |finetune| {
            finetune.model.as_llava_mut().unwrap().freeze_language_model = true;
            finetune.model.as_llava_mut().unwrap().freeze_vision_projection = true;
        });
    });
}

#[test]
fn adapters_on_fused_modules_match_one_rank() {
    within_limit(|| {
        check("fused LoRA", ALL, |finetune| {
            adapters(finetune, &["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"])
        })
    });
}

#[test]
fn adapters_on_single_linears_match_one_rank() {
    // `q_proj` also matches linears of the vision encoder, which are replicated.
    within_limit(|| {
        check("single LoRA", ALL, |finetune| {
            adapters(finetune, &["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "linear_1", "fc2"])
        });
    });
}

#[test]
fn adapters_with_a_trainable_model_match_one_rank() {
    within_limit(|| {
        check("LoRA and model", &[TP2_DP2], |finetune| {
            lora(finetune);
            if let Some(Peft::LoRA(lora)) = &mut finetune.peft {
                lora.freeze_language_model = false;
            }
        });
    });
}

#[test]
fn more_ranks_than_key_heads_match_one_rank() {
    within_limit(|| {
        let four = ParallelSizes { tp: 4, ..ONE };
        assert_eq!(small().model.as_llava().unwrap().text_config.num_key_value_heads, 2);
        check("copied heads", &[four], |_| {});
        check("adapters on copied heads", &[four], |finetune| {
            adapters(finetune, &["linear_qkv", "o_proj", "linear_fc1", "linear_fc2"]);
        });
    });
}

#[test]
fn a_padded_vocabulary_matches_one_rank() {
    within_limit(|| {
        // 1024 rows on each rank: the second has 976 real ones. With 64, the second has only padding.
        for vocab_size in [2000, 64] {
            check(&format!("vocabulary of {vocab_size}"), &[TP2, TP2_DP2], |finetune| {
                finetune.model.as_llava_mut().unwrap().text_config.vocab_size = vocab_size
            });
        }
        let four = ParallelSizes { tp: 4, ..ONE };
        check("vocabulary of 100 over 4 ranks", &[four], |finetune| {
            let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
            (text.vocab_size, text.num_key_value_heads) = (100, 4);
        });
    });
}

#[test]
fn the_recipe_matches_one_rank() {
    within_limit(|| {
        let mut finetune = tiny();
        mock(&mut finetune).seq_length = 48;
        let samples = Samples::of(&finetune);
        let expected = train(&finetune, &samples, ONE, STEPS);
        for sizes in [DP2, TP2] {
            let got = train(&finetune, &samples, sizes, STEPS);
            close(&format!("{sizes:?}: loss"), &got.losses, &expected.losses, tolerance(sizes));
            close_tensors(&format!("{sizes:?}"), &got.weights, &expected.weights, 1e-4);
        }
    });
}

#[test]
fn any_size_of_microbatches_gives_the_same_losses() {
    within_limit(|| {
        let train_cut = |micro_batch_size| {
            let mut finetune = small();
            mock(&mut finetune).micro_batch_size = micro_batch_size;
            train(&finetune, &Samples::edited(&finetune, mixed), ONE, STEPS)
        };
        let expected = train_cut(8);
        for micro_batch_size in [1, 2, 4] {
            let got = train_cut(micro_batch_size);
            close(
                &format!("microbatches of {micro_batch_size}: loss"),
                &got.losses,
                &expected.losses,
                1e-6,
            );
            close_tensors(
                &format!("microbatches of {micro_batch_size}"),
                &got.weights,
                &expected.weights,
                1e-4,
            );
        }
    });
}

#[test]
fn fresh_parameters_are_shards_of_the_whole() {
    within_limit(|| {
        let mut finetune = small();
        finetune.model.as_llava_mut().unwrap().text_config.vocab_size = 200;
        adapters(&mut finetune, &["linear_qkv", "linear_proj", "q_proj_of_nothing", "linear_fc2"]);
        let expected = on_mesh(ONE, |mesh| {
            let loaded = loaded(&finetune, &mesh);
            loaded
                .parameters
                .iter()
                .map(|parameter| (parameter.spec.name.clone(), parameter.tensor.detach()))
                .collect::<Vec<_>>()
        });
        for sizes in [TP2, TP2_DP2] {
            let ranks = on_mesh(sizes, |mesh| {
                let loaded = loaded(&finetune, &mesh);
                for parameter in loaded.parameters.iter() {
                    let group = mesh.axis(neva_engine::comm::Axis::Tensor);
                    let Some(shard) = parameter.spec.shard(group.rank(), group.size()) else {
                        continue;
                    };
                    let padding = parameter
                        .tensor
                        .narrow(shard.dim as i64, shard.len as i64, (shard.padded - shard.len) as i64);
                    assert_eq!(
                        padding.abs().sum(Kind::Double).double_value(&[]),
                        0.0,
                        "padding of {}",
                        parameter.spec.name
                    );
                }
                loaded
                    .parameters
                    .iter()
                    .map(|parameter| whole(parameter, &parameter.tensor.detach(), &mesh))
                    .collect::<Vec<_>>()
            });
            for got in ranks {
                for ((name, expected), got) in expected[0].iter().zip(got) {
                    assert!(got.equal(expected), "{sizes:?}: `{name}` is not a shard of the whole");
                }
            }
        }
    });
}
