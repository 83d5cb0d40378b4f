//! Generation with a key-value cache equals the full forward pass.

use crate::setting::{difference, loaded, small, within_limit};
use neva_data::IMAGE_TOKEN_INDEX;
use neva_engine::attention::Segments;
use neva_engine::batch::Batch;
use neva_engine::comm::Mesh;
use neva_schemas::{FeatureSelect, Finetune, ProjectorType, RopeScaling, RopeType, TextConfig, TextModelType, VisionModelType, VisionNorm};
use tch::{Device, Kind, Tensor};

/// A text with an image of 4 positions inside.
const IDS: [i64; 13] = [
    1,
    40,
    IMAGE_TOKEN_INDEX,
    IMAGE_TOKEN_INDEX,
    IMAGE_TOKEN_INDEX,
    IMAGE_TOKEN_INDEX,
    7,
    250,
    31,
    8,
    99,
    100,
    3,
];

/// Returns the positions `start..end` of the text, with the image of `side` pixels a side if it is among them.
fn batch(start: usize, end: usize, side: i64) -> Batch {
    let ids = &IDS[start..end];
    let image: Vec<i64> = ids
        .iter()
        .enumerate()
        .filter(|(_, id)| **id == IMAGE_TOKEN_INDEX)
        .map(|(place, _)| place as i64)
        .collect();
    let input_ids_bs = Tensor::from_slice(ids).unsqueeze(0);
    Batch {
        labels_bs: input_ids_bs.shallow_clone(),
        input_ids_bs,
        segments: Segments::rows(&[ids.len()]),
        pixels: (!image.is_empty()).then(|| {
            Tensor::arange(3 * side * side, (Kind::Float, Device::Cpu))
                .cos()
                .view([1, 3, side, side])
        }),
        image_positions: Tensor::from_slice(&image),
        feature_rows: None,
    }
}

#[test]
fn of_every_prompt_equals_the_full_forward_pass() {
    for family in families() {
        let mut finetune = small();
        finetune.model.as_llava_mut().unwrap().text_config = family;
        check_prompts(finetune);
    }
}

#[test]
fn of_every_vision_encoder_equals_the_full_forward_pass() {
    for encoder in [VisionModelType::Clip, VisionModelType::Siglip, VisionModelType::InternVit] {
        let mut finetune = small();
        let model = finetune.model.as_llava_mut().unwrap();
        model.vision_config.model_type = encoder.clone();
        // SigLIP has no class token to drop.
        if encoder == VisionModelType::Siglip {
            model.vision_feature_select_strategy = FeatureSelect::Full;
        }
        if encoder == VisionModelType::InternVit {
            (model.vision_config.norm_type, model.vision_config.use_qk_norm) = (VisionNorm::RmsNorm, true);
        }
        check_prompts(finetune);
    }
}

/// The pixel shuffle merges four positions: the image of 4 is one of 56 pixels a side.
#[test]
fn of_a_pixel_shuffle_equals_the_full_forward_pass() {
    let mut finetune = small();
    let model = finetune.model.as_llava_mut().unwrap();
    model.vision_config.model_type = VisionModelType::InternVit;
    model.vision_config.image_size *= 2;
    model.projector_type = ProjectorType::InternVl;
    check_prompts(finetune);
}

/// Returns a config of each family of language models.
fn families() -> Vec<TextConfig> {
    let text = small().model.as_llava().unwrap().text_config.clone();
    let of = |family: TextModelType| TextConfig {
        model_type: Some(family),
        ..text.clone()
    };
    vec![
        of(TextModelType::Llama),
        TextConfig {
            attention_bias: true,
            mlp_bias: true,
            rope_scaling: Some(RopeScaling {
                rope_type: RopeType::Llama3,
                factor: 4.0,
                low_freq_factor: Some(1.0),
                high_freq_factor: Some(4.0),
                original_max_position_embeddings: Some(8),
            }),
            ..of(TextModelType::Llama)
        },
        TextConfig {
            sliding_window: Some(3),
            ..of(TextModelType::Mistral)
        },
        of(TextModelType::Nemotron),
        TextConfig {
            sliding_window: Some(5),
            use_sliding_window: Some(true),
            max_window_layers: Some(1),
            ..of(TextModelType::Qwen2)
        },
    ]
}

fn check_prompts(finetune: Finetune) {
    within_limit(move || {
        let side = finetune.model.as_llava().unwrap().vision_config.image_size as i64;
        let batch = |start, end| batch(start, end, side);
        let loaded = loaded(&finetune, &Mesh::single());
        tch::no_grad(|| {
            let expected = loaded.whole().unwrap().0.forward(&batch(0, IDS.len()), None).unwrap();
            // A prompt ends before or after the image.
            for prompt in [1, 2, 6, 7, 8, 9, 12] {
                let mut decoding = loaded.whole().unwrap().0.decoding();
                let mut parts = vec![loaded.whole().unwrap().0.decode(&batch(0, prompt), &mut decoding).unwrap()];
                if prompt >= 6 {
                    parts.extend(
                        (prompt..IDS.len()).map(|place| loaded.whole().unwrap().0.decode(&batch(place, place + 1), &mut decoding).unwrap()),
                    );
                }
                let got = Tensor::cat(&parts, 1);
                let off = difference(&got, &expected.narrow(1, 0, got.size()[1]));
                assert!(off <= 1e-5, "{:?}: a prompt of {prompt}: off by {off:e}", finetune.model);
            }
        });
    });
}

#[test]
fn two_caches_do_not_mix() {
    within_limit(|| {
        let finetune = small();
        let side = finetune.model.as_llava().unwrap().vision_config.image_size as i64;
        let batch = |start, end| batch(start, end, side);
        let loaded = loaded(&finetune, &Mesh::single());
        tch::no_grad(|| {
            let expected = loaded.whole().unwrap().0.forward(&batch(0, 9), None).unwrap();
            let [mut a, mut b] = [loaded.whole().unwrap().0.decoding(), loaded.whole().unwrap().0.decoding()];
            let _ = loaded.whole().unwrap().0.decode(&batch(0, 8), &mut a).unwrap();
            let _ = loaded.whole().unwrap().0.decode(&batch(6, 8), &mut b).unwrap();
            let got = loaded.whole().unwrap().0.decode(&batch(8, 9), &mut a).unwrap();
            assert!(difference(&got, &expected.narrow(1, 8, 1)) <= 1e-5);
            let other = loaded.whole().unwrap().0.decode(&batch(8, 9), &mut b).unwrap();
            assert!(difference(&other, &got) > 1e-3);
        });
    });
}
