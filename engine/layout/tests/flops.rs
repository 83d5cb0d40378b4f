//! Floating point operations of a microbatch, counted by hand.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_layout::{Adapters, Families, ModelFlops, lora_adapters};
use neva_schemas::{Finetune, LlavaModel, LoRA, Model, Peft, Precision, TextConfig, VisionConfig, VisionPlacement};

/// Values of the matrices of a layer of the decoder: q and o, k and v, gate, up and down.
const QO: usize = 2 * 16 * 16;
const KV: usize = 2 * 8 * 16;
const MLP: usize = 3 * 16 * 24;
const HEAD: usize = 200 * 16;
/// Of the one layer of the vision encoder that runs, for 5 positions; of its patch embedding and of the projector, for 4.
const VISION: usize = 4 * 8 * 8 + 2 * 8 * 12;
const PATCHES: usize = 8 * 3 * 14 * 14;
const PROJECTOR: usize = 8 * 16 + 16 * 16;

fn finetune() -> Finetune {
    let model = LlavaModel {
        text_config: TextConfig {
            vocab_size: 200,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            ..TextConfig::default()
        },
        vision_config: VisionConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            image_size: 28,
            ..VisionConfig::default()
        },
        freeze_vision_model: false,
        freeze_vision_projection: false,
        freeze_language_model: false,
        ..LlavaModel::default()
    };
    Finetune::evaluation(Model::Llava(model), Precision::Fp32)
}

fn model(finetune: &mut Finetune) -> &mut LlavaModel {
    finetune.model.as_llava_mut().unwrap()
}

fn flops(finetune: &Finetune, lengths: &[usize], labels: u64, images: u64) -> f64 {
    let table = Families::builtin().resolve(&finetune.model, "model").unwrap();
    let mut specs = table.parameters(VisionPlacement::Shared);
    let adapters = match &finetune.peft {
        Some(peft) => lora_adapters(&specs, peft.lora(), "peft").unwrap(),
        None => Adapters::default(),
    };
    specs.extend(adapters.parameters.iter().cloned());
    ModelFlops::of(&table, &specs, &adapters, finetune).of_microbatch(lengths, labels, images)
}

#[test]
fn a_trained_model_multiplies_each_matrix_three_times() {
    let finetune = finetune();
    let decoder = 6 * 2 * (QO + KV + MLP);
    // 55 pairs of 10 positions and 6 of 3; two layers of width 16.
    let attention = 3 * 2 * 4 * 16 * (55 + 6);
    let text = 13 * decoder + 7 * 6 * HEAD + attention;
    assert_eq!(flops(&finetune, &[10, 3], 7, 0), text as f64);
    // Pixels have no gradient.
    let image = 5 * 6 * VISION + 3 * 4 * 8 * 25 + 4 * 4 * PATCHES + 4 * 6 * PROJECTOR;
    assert_eq!(flops(&finetune, &[10, 3], 7, 2), (text + 2 * image) as f64);
}

#[test]
fn nothing_before_the_first_trained_parameter_has_a_gradient() {
    let mut finetune = finetune();
    (
        model(&mut finetune).freeze_vision_model,
        model(&mut finetune).freeze_vision_projection,
    ) = (true, true);
    model(&mut finetune).freeze_language_model = true;
    finetune.peft = Some(Peft::LoRA(LoRA {
        dim: 2,
        target_modules: vec!["linear_qkv".to_owned()],
        ..LoRA::default()
    }));
    let qkv = 16 * 16 + KV;
    let rest = 16 * 16 + MLP;
    // The first layer's input has no gradient; A is shared by q, k and v.
    let (a, b) = (2 * 16, 2 * (16 + 8 + 8));
    let first = 2 * qkv + 4 * rest + 4 * a + 6 * b;
    let second = 4 * qkv + 4 * rest + 6 * a + 6 * b;
    let attention = 3 * 2 * 4 * 16 * 55;
    let text = 10 * (first + second) + 4 * 4 * HEAD + attention;
    assert_eq!(flops(&finetune, &[10], 4, 0), text as f64);
    let image = 5 * 2 * VISION + 4 * 8 * 25 + 4 * 2 * PATCHES + 4 * 2 * PROJECTOR;
    assert_eq!(flops(&finetune, &[10], 4, 1), (text + image) as f64);
}

#[test]
fn a_trained_projector_needs_the_gradient_of_a_frozen_decoder_only_with_images() {
    let mut finetune = finetune();
    (model(&mut finetune).freeze_vision_model, model(&mut finetune).freeze_language_model) = (true, true);
    let decoder = 2 * (QO + KV + MLP);
    let text = 10 * 2 * decoder + 4 * 2 * HEAD + 2 * 4 * 16 * 55;
    assert_eq!(flops(&finetune, &[10], 4, 0), text as f64);
    let text = 10 * 4 * decoder + 4 * 4 * HEAD + 3 * 2 * 4 * 16 * 55;
    // The input of the first of the projector's linears has no gradient.
    let projector = 4 * 8 * 16 + 6 * 16 * 16;
    let image = 5 * 2 * VISION + 4 * 8 * 25 + 4 * 2 * PATCHES + 4 * projector;
    assert_eq!(flops(&finetune, &[10], 4, 1), (text + image) as f64);
}

#[test]
fn a_window_limits_the_pairs() {
    let mut finetune = finetune();
    let whole = flops(&finetune, &[10], 0, 0);
    model(&mut finetune).text_config.sliding_window = Some(4);
    model(&mut finetune).text_config.model_type = Some(neva_schemas::TextModelType::Mistral);
    // 4 of the first queries see 1 to 4 keys, the others 4.
    let lost = 55 - (10 + 6 * 4);
    assert_eq!(whole - flops(&finetune, &[10], 0, 0), f64::from(3 * 2 * 4 * 16 * lost));
}

#[test]
fn a_tied_head_is_the_last_product() {
    let mut finetune = finetune();
    let untied = flops(&finetune, &[10], 4, 0);
    model(&mut finetune).text_config.tie_word_embeddings = true;
    assert_eq!(flops(&finetune, &[10], 4, 0), untied);
}
