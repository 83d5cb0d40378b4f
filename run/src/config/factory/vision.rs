//! NeMo's classes of vision encoders and multimodal models, with the arguments of NeMo and of Hugging Face.
//!
//! | class | value |
//! |---|---|
//! | `vlm.CLIPViTL_14_336_Config`, `vlm.SigLIPViT400M_14_384_Config` | a vision encoder of these sizes |
//! | `vlm.InternViT_300M_448px_Config`, `vlm.InternViT_6B_448px_Config` | the same |
//! | `vlm.HFCLIPVisionConfig(pretrained_model_name_or_path=ID)` | the CLIP of that id |
//! | `vlm.CLIPViTModel(config=...)`, `vlm.SigLIPViTModel`, `vlm.InternViTModel` | the vision encoder that `config` describes |
//! | `vlm.Llava15Config7B`, `vlm.Llava15Config13B`, `vlm.NevaConfig` | a `vlm.LlavaModel` |
//! | `vlm.NevaModel(config=...)`, `vlm.LlavaModel(config=...)` | the model that `config` describes |

use neva_recipes::{llava15_7b, llava15_13b};
use neva_schemas::{LlavaModel, Model, VisionConfig, VisionModelType};

use super::{Factories, registry::error_at};
use crate::config::{
    call,
    de::from_node,
    error::ConfigError,
    merge::merge,
    names,
    node::{CONFIG, Entry, FACTORY, Map, Node, TARGET, Value},
    ser::to_node,
};

/// Arguments of Megatron's vision configs, and their fields here.
const VISION: &[(&str, &str)] = &[
    ("num_layers", "num_hidden_layers"),
    ("ffn_hidden_size", "intermediate_size"),
    ("img_h", "image_size"),
    ("patch_dim", "patch_size"),
    ("layernorm_epsilon", "layer_norm_eps"),
];

/// Arguments of `vlm.NevaConfig`, and their fields here.
const NEVA: &[(&str, &str)] = &[
    ("language_transformer_config", "text_config"),
    ("vision_transformer_config", "vision_config"),
];

/// Arguments of `vlm.MultimodalProjectorConfig`, and their fields of the model here.
const PROJECTOR: &[(&str, &str)] = &[("projector_type", "projector_type"), ("bias", "multimodal_projector_bias")];

/// CLIPs by id: hidden size, MLP size, layers, heads, image size, patch size.
const CLIPS: &[(&str, [usize; 6])] = &[
    ("openai/clip-vit-large-patch14-336", [1024, 4096, 24, 16, 336, 14]),
    ("openai/clip-vit-large-patch14", [1024, 4096, 24, 16, 224, 14]),
    ("openai/clip-vit-base-patch16", [768, 3072, 12, 12, 224, 16]),
    ("openai/clip-vit-base-patch32", [768, 3072, 12, 12, 224, 32]),
];

impl Factories {
    /// Adds the classes of vision encoders and multimodal models.
    pub(super) fn with_vision_classes(self) -> Self {
        let vision = |factories: Self, name: &str, value: fn() -> VisionConfig| {
            factories.with_nodes("VisionConfig", name, move |arguments, _| preset(&value(), VISION, arguments))
        };
        let model = |factories: Self, name: &str, value: fn() -> LlavaModel| {
            factories.with_nodes("Model", name, move |arguments, _| neva_model(value(), arguments))
        };
        let mut factories = self.with_nodes("VisionConfig", "HFCLIPVisionConfig", |arguments, _| clip_of(arguments));
        factories = vision(factories, "CLIPViTL_14_336_Config", VisionConfig::clip_vit_l_14_336);
        factories = vision(factories, "SigLIPViT400M_14_384_Config", VisionConfig::siglip_vit_400m_14_384);
        factories = vision(factories, "InternViT_300M_448px_Config", VisionConfig::intern_vit_300m_448px);
        factories = vision(factories, "InternViT_6B_448px_Config", VisionConfig::intern_vit_6b_448px);
        for name in ["CLIPViTModel", "SigLIPViTModel", "InternViTModel"] {
            factories = factories.with_nodes("VisionConfig", name, |arguments, _| only_config(arguments));
        }
        factories = model(factories, "Llava15Config7B", llava15_7b::model);
        factories = model(factories, "Llava15Config13B", llava15_13b::model);
        factories = model(factories, "NevaConfig", LlavaModel::default);
        factories = factories.with_nodes("Model", "NevaModel", |arguments, _| only_config(arguments));
        factories.with_nodes("Model", "vlm.LlavaModel", |arguments, _| {
            if arguments.get(CONFIG).is_some() {
                return only_config(arguments);
            }
            preset(&Model::Llava(LlavaModel::default()), &[], arguments)
        })
    }
}

/// Merges the `arguments` over `value`, after renaming them by `names`.
pub(super) fn preset<T: serde::Serialize>(value: &T, names: &[(&str, &str)], mut arguments: Node) -> Result<Node, ConfigError> {
    rename(&mut arguments, names);
    let mut made = to_node(value, arguments.origin.clone())?;
    merge(&mut made, arguments);
    Ok(made)
}

fn rename(arguments: &mut Node, names: &[(&str, &str)]) {
    let Value::Map(map) = &mut arguments.value else { return };
    *map = std::mem::take(map)
        .into_iter()
        .map(|(name, entry)| {
            let other = names.iter().find(|(theirs, _)| *theirs == name);
            (other.map_or(name, |(_, ours)| (*ours).to_owned()), entry)
        })
        .collect();
}

fn take(arguments: &mut Node, name: &str) -> Option<Node> {
    let Value::Map(map) = &mut arguments.value else { return None };
    map.shift_remove(name).map(|entry| entry.node)
}

/// Returns the argument `config`, with the other arguments merged over it.
fn only_config(mut arguments: Node) -> Result<Node, ConfigError> {
    let Some(config) = take(&mut arguments, CONFIG) else {
        return Err(error_at(
            &arguments,
            "the argument `config` is missing",
            "write config=vlm.Llava15Config7B, for example",
        ));
    };
    let rest = arguments.value.clone();
    match rest {
        Value::Map(map) if !map.is_empty() => {
            let mut call = Map::new();
            let entry = Entry {
                key: config.origin.clone(),
                node: config,
            };
            call.insert(FACTORY.to_owned(), entry);
            call.extend(map);
            Ok(Node::new(arguments.origin, Value::Map(call)))
        }
        _ => Ok(config),
    }
}

/// Returns the config of a CLIP by its id. A folder is assumed to have the default sizes; the run compares its
/// `config.json` at start-up.
fn clip_of(mut arguments: Node) -> Result<Node, ConfigError> {
    let id = take(&mut arguments, "pretrained_model_name_or_path");
    let Some(id) = id.as_ref().map(|id| id.as_text().unwrap_or_default().to_owned()) else {
        return Err(error_at(
            &arguments,
            "the argument `pretrained_model_name_or_path` is missing",
            "name a CLIP, such as openai/clip-vit-large-patch14-336",
        ));
    };
    let sizes = CLIPS.iter().find(|(known, _)| *known == id).map(|(_, sizes)| *sizes);
    let config = sizes.map_or_else(VisionConfig::default, |[hidden, mlp, layers, heads, image, patch]| VisionConfig {
        model_type: VisionModelType::Clip,
        hidden_size: hidden,
        intermediate_size: mlp,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        image_size: image,
        patch_size: patch,
        ..VisionConfig::default()
    });
    preset(&config, VISION, arguments)
}

/// Builds a model from the arguments of `vlm.NevaConfig`, whose parts have NeMo's names.
fn neva_model(value: LlavaModel, mut arguments: Node) -> Result<Node, ConfigError> {
    if let Some(projector) = take(&mut arguments, "vision_projection_config") {
        let fields = class(&projector, "MultimodalProjectorConfig")?;
        let Value::Map(fields) = fields.value else { return Ok(arguments) };
        for (name, entry) in fields {
            let Some((_, ours)) = PROJECTOR.iter().find(|(theirs, _)| *theirs == name) else {
                let message = format!("`{name}` of the projector follows from the vision encoder and the language model");
                return Err(error_at(&entry.node, &message, &format!("remove `{name}`")));
            };
            if let Value::Map(map) = &mut arguments.value {
                map.insert((*ours).to_owned(), entry);
            }
        }
    }
    if let Some(drop) = take(&mut arguments, "drop_vision_class_token") {
        let strategy = if from_node::<bool>(&drop)? { "default" } else { "full" };
        let node = Node::new(drop.origin, Value::Str(strategy.to_owned()));
        insert(&mut arguments, "vision_feature_select_strategy", node);
    }
    rename(&mut arguments, NEVA);
    let mut fresh = None;
    if let Some(vision) = arguments.get("vision_config") {
        fresh = pretrained_clip(vision)?;
        // Without a class token there is none to drop.
        if named(vision).as_deref() == Some("SigLIPViT400M_14_384_Config") && arguments.get("vision_feature_select_strategy").is_none() {
            let node = Node::new(vision.origin.clone(), Value::Str("full".to_owned()));
            insert(&mut arguments, "vision_feature_select_strategy", node);
        }
    }
    // NeMo loads the weights of a CLIP that is named by its id.
    if let Some(address) = fresh
        && arguments.get("vision_model_from_pretrained").is_none()
    {
        insert(&mut arguments, "vision_model_from_pretrained", address);
    }
    preset(&Model::Llava(value), &[], arguments)
}

fn insert(arguments: &mut Node, name: &str, node: Node) {
    let Value::Map(map) = &mut arguments.value else { return };
    let entry = Entry {
        key: node.origin.clone(),
        node,
    };
    map.insert(name.to_owned(), entry);
}

/// Returns the name of the class of a value.
fn named(node: &Node) -> Option<String> {
    let tag = node.get(TARGET).or_else(|| node.get(FACTORY)).unwrap_or(node);
    let text = tag.as_text()?;
    let name = text.split('(').next()?.trim();
    Some(names::class(name).unwrap_or(name).to_owned())
}

/// Returns the address of the weights of a `vlm.HFCLIPVisionConfig`.
fn pretrained_clip(vision: &Node) -> Result<Option<Node>, ConfigError> {
    if named(vision).as_deref() != Some("HFCLIPVisionConfig") {
        return Ok(None);
    }
    let mut fields = match vision.as_text() {
        Some(text) if call::is_call(text) => Node::new(vision.origin.clone(), Value::Map(call::call(text, &vision.origin)?.arguments)),
        _ => vision.clone(),
    };
    let Some(id) = take(&mut fields, "pretrained_model_name_or_path") else {
        return Ok(None);
    };
    let text = id.as_text().unwrap_or_default();
    let address = if text.contains("://") || text.starts_with(['/', '.', '~']) {
        text.to_owned()
    } else {
        format!("hf://{text}")
    };
    Ok(Some(Node::new(id.origin.clone(), Value::Str(address))))
}

/// Returns the arguments of a call of `class`, or the fields of a map of that class.
fn class(node: &Node, class: &str) -> Result<Node, ConfigError> {
    let mut node = node.clone();
    if let Some(text) = node.as_text()
        && call::is_call(text)
    {
        let origin = node.origin.clone();
        node = Node::new(origin.clone(), Value::Map(call::call(text, &origin)?.arguments));
    } else if let Some(name) = named(&node)
        && name != class
    {
        return Err(error_at(
            &node,
            &format!("`{name}` is not a {class}"),
            &format!("write vlm.{class}(projector_type=mcore_mlp)"),
        ));
    }
    if let Value::Map(map) = &mut node.value {
        map.shift_remove(TARGET);
        map.shift_remove(FACTORY);
    }
    Ok(node)
}
