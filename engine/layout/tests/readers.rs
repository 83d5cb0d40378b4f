//! Where the readers of an export put its tensors.
#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

use neva_layout::{ExportedFiles, Families, ModelTable, ReaderSlot};
use neva_schemas::{ExportFormat, LanguageModel, LlavaModel, Model, NameLayout, Reader, TextConfig, TextModelType, VisionPlacement};

const OLD: (ExportFormat, NameLayout, Reader) = (ExportFormat::Hf, NameLayout::Original, Reader::Transformers);
const NEWER: (ExportFormat, NameLayout, Reader) = (ExportFormat::Hf, NameLayout::Newer, Reader::Transformers);
const OLD_PEFT: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Original, Reader::Peft);
const PEFT: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Newer, Reader::Peft);
const VLLM: (ExportFormat, NameLayout, Reader) = (ExportFormat::HfPeft, NameLayout::Original, Reader::Vllm);
const LLAVA: (ExportFormat, NameLayout, Reader) = (ExportFormat::Llava, NameLayout::Original, Reader::Transformers);

fn llava() -> ModelTable {
    Families::builtin().resolve(&Model::Llava(LlavaModel::default()), "model").unwrap()
}

#[test]
fn keys_of_models() {
    let norm = "model.language_model.norm.weight";
    let class = "model.vision_tower.embeddings.class_embedding";
    for (form, key, expected) in [
        (OLD, "language_model.model.norm.weight", Some(norm)),
        (OLD, "model.language_model.norm.weight", None),
        (OLD, "language_model.lm_head.weight", Some("lm_head.weight")),
        (OLD, "lm_head.weight", None),
        (OLD, "vision_tower.vision_model.embeddings.class_embedding", Some(class)),
        // transformers 5 reads it, 4 does not.
        (OLD, "vision_tower.embeddings.class_embedding", None),
        (
            OLD,
            "multi_modal_projector.linear_1.bias",
            Some("model.multi_modal_projector.linear_1.bias"),
        ),
        (NEWER, norm, Some(norm)),
        (NEWER, "language_model.model.norm.weight", None),
        (NEWER, "norm.weight", None),
        (VLLM, "language_model.model.norm.weight", Some(norm)),
        (VLLM, "model.language_model.norm.weight", Some(norm)),
        (VLLM, "lm_head.weight", Some("lm_head.weight")),
        (VLLM, "language_model.lm_head.weight", Some("lm_head.weight")),
        (VLLM, "vision_tower.vision_model.embeddings.class_embedding", Some(class)),
        (VLLM, "vision_tower.embeddings.class_embedding", None),
        (VLLM, "model.norm.weight", None),
        (VLLM, "language_model.model.layers.0.self_attn.qkv_proj.weight", None),
        (
            VLLM,
            "language_model.model.layers.31.self_attn.q_proj.weight",
            Some("model.language_model.layers.31.self_attn.q_proj.weight"),
        ),
        (LLAVA, "model.norm.weight", Some(norm)),
        (
            LLAVA,
            "model.mm_projector.2.weight",
            Some("model.multi_modal_projector.linear_2.weight"),
        ),
        (LLAVA, "model.mm_projector.1.weight", None),
        (
            LLAVA,
            "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
            Some(class),
        ),
        (LLAVA, "language_model.model.norm.weight", None),
    ] {
        let expected = expected.map(|name| ReaderSlot::Parameter(name.to_owned()));
        assert_eq!(llava().reader_slot(form, ExportedFiles::Model, key), expected, "{form:?} {key}");
    }
}

#[test]
fn keys_of_adapters() {
    let q = || "model.language_model.layers.0.self_attn.q_proj".to_owned();
    let fc1 = || "model.vision_tower.encoder.layers.0.mlp.fc1".to_owned();
    let bias = || ReaderSlot::Parameter("model.multi_modal_projector.linear_1.bias".to_owned());
    for (form, key, expected) in [
        (
            PEFT,
            "model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
            Some(ReaderSlot::A(q())),
        ),
        (
            PEFT,
            "model.language_model.layers.0.self_attn.q_proj.lora_B.weight",
            Some(ReaderSlot::B(q())),
        ),
        (
            PEFT,
            "model.language_model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            Some(ReaderSlot::Magnitude(q())),
        ),
        (PEFT, "language_model.model.layers.0.self_attn.q_proj.lora_A.weight", None),
        (PEFT, "model.multi_modal_projector.linear_1.bias", Some(bias())),
        (
            OLD_PEFT,
            "language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            Some(ReaderSlot::A(q())),
        ),
        (
            OLD_PEFT,
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_B.weight",
            Some(ReaderSlot::B(fc1())),
        ),
        (OLD_PEFT, "multi_modal_projector.linear_1.bias", Some(bias())),
        (OLD_PEFT, "model.multi_modal_projector.linear_1.bias", None),
        (
            VLLM,
            "language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            Some(ReaderSlot::A(q())),
        ),
        (
            VLLM,
            "model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
            Some(ReaderSlot::A(q())),
        ),
        (
            VLLM,
            "vision_tower.vision_model.encoder.layers.0.mlp.fc1.lora_B.weight",
            Some(ReaderSlot::B(fc1())),
        ),
        // Served without a warning, and without effect.
        (VLLM, "model.layers.0.self_attn.q_proj.lora_A.weight", None),
        (VLLM, "language_model.layers.0.self_attn.q_proj.lora_A.weight", None),
        (VLLM, "language_model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", None),
        (VLLM, "multi_modal_projector.linear_1.bias", None),
    ] {
        let key = format!("base_model.model.{key}");
        let adapter = |key: &str| llava().reader_slot(form, ExportedFiles::Adapter, key);
        assert_eq!(adapter(&key), expected, "{form:?} {key}");
        assert_eq!(
            adapter(key.strip_prefix("base_model.model.").unwrap()),
            None,
            "{form:?} {key} without its prefix"
        );
    }
}

/// The tables know every parameter of the families that the readers have, by its name in the hub's files.
#[test]
fn every_parameter_has_a_place() {
    let decoders = [
        TextModelType::Llama,
        TextModelType::Mistral,
        TextModelType::Nemotron,
        TextModelType::Qwen2,
    ];
    let mut models = vec![Model::Llava(LlavaModel::default())];
    models.extend(decoders.map(|model_type| {
        Model::Gpt(LanguageModel {
            config: TextConfig {
                model_type: Some(model_type),
                ..TextConfig::default()
            },
            ..LanguageModel::default()
        })
    }));
    for model in models {
        let table = Families::builtin().resolve(&model, "model").unwrap();
        let rows = table.parameters(VisionPlacement::Shared);
        assert!(rows.len() > 200);
        for row in rows {
            for (form, key) in [
                (OLD, table.hub_name(&row.name)),
                (VLLM, table.hub_name(&row.name)),
                (NEWER, row.name.clone()),
            ] {
                let slot = table.reader_slot(form, ExportedFiles::Model, &key);
                assert_eq!(slot, Some(ReaderSlot::Parameter(row.name.clone())), "{form:?} {key}");
            }
        }
    }
}
