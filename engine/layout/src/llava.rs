//! Names, shapes and fresh values of every parameter of a LLaVA model.

use crate::parameter::{Init, ParamSpec, Part};
use crate::sharding::cut_of;
use neva_schemas::{LlavaModel, TextConfig, VisionConfig, VisionPlacement};

/// Every parameter, in the order in which they are made and saved. Only the cuts depend on `placement`.
pub fn llava_parameters(model: &LlavaModel, placement: VisionPlacement) -> Vec<ParamSpec> {
    let mut list = List {
        specs: Vec::new(),
        placement,
    };
    vision(&mut list, &model.vision_config, model.vision_layers_used());
    projection(&mut list, model.vision_config.hidden_size, model.text_config.hidden_size);
    language(&mut list, &model.text_config);
    list.specs
}

/// Full name of the parameter that is both embedding and head, where they are one: the first and the last stage of a
/// pipeline hold it both.
pub fn tied_embedding(model: &LlavaModel) -> Option<&'static str> {
    model
        .text_config
        .tie_word_embeddings
        .then_some("model.language_model.embed_tokens.weight")
}

struct List {
    specs: Vec<ParamSpec>,
    placement: VisionPlacement,
}

impl List {
    fn add(&mut self, part: Part, name: String, shape: &[usize], init: Init) {
        self.specs.push(ParamSpec {
            cut: cut_of(&name, self.placement),
            name,
            shape: shape.to_vec(),
            heads: None,
            part,
            init,
            used: true,
        });
    }

    fn norm(&mut self, part: Part, name: &str, width: usize, bias: bool) {
        self.add(part, format!("{name}.weight"), &[width], Init::Ones);
        if bias {
            self.add(part, format!("{name}.bias"), &[width], Init::Zeros);
        }
    }
}

/// `transformers.CLIPVisionModel`; fresh values as its `_init_weights`. Layers behind the chosen
/// hidden state and the post-norm are kept, so that an export is complete, but never run.
fn vision(list: &mut List, config: &VisionConfig, layers_used: usize) {
    let part = Part::Vision;
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let patches = (config.image_size / config.patch_size.max(1)).pow(2);
    let width = 1.0 / (h as f64).sqrt();
    let depth = 1.0 / (2.0 * config.num_hidden_layers as f64).sqrt();
    let range = Init::Normal {
        std: config.initializer_range,
    };
    let prefix = "model.vision_tower";

    list.add(
        part,
        format!("{prefix}.embeddings.class_embedding"),
        &[h],
        Init::Normal { std: width },
    );
    list.add(
        part,
        format!("{prefix}.embeddings.patch_embedding.weight"),
        &[h, config.num_channels, config.patch_size, config.patch_size],
        range,
    );
    list.add(
        part,
        format!("{prefix}.embeddings.position_embedding.weight"),
        &[patches + 1, h],
        range,
    );
    list.norm(part, &format!("{prefix}.pre_layrnorm"), h, true);
    for layer in 0..config.num_hidden_layers {
        let first = list.specs.len();
        let layer_prefix = format!("{prefix}.encoder.layers.{layer}");
        list.norm(part, &format!("{layer_prefix}.layer_norm1"), h, true);
        for (name, std) in [
            ("q_proj", width * depth),
            ("k_proj", width * depth),
            ("v_proj", width * depth),
            ("out_proj", width),
        ] {
            list.add(
                part,
                format!("{layer_prefix}.self_attn.{name}.weight"),
                &[h, h],
                Init::Normal { std },
            );
            list.add(part, format!("{layer_prefix}.self_attn.{name}.bias"), &[h], Init::Zeros);
        }
        list.norm(part, &format!("{layer_prefix}.layer_norm2"), h, true);
        list.add(
            part,
            format!("{layer_prefix}.mlp.fc1.weight"),
            &[f, h],
            Init::Normal { std: width / 2f64.sqrt() },
        );
        list.add(part, format!("{layer_prefix}.mlp.fc1.bias"), &[f], Init::Zeros);
        list.add(
            part,
            format!("{layer_prefix}.mlp.fc2.weight"),
            &[h, f],
            Init::Normal { std: width * depth },
        );
        list.add(part, format!("{layer_prefix}.mlp.fc2.bias"), &[h], Init::Zeros);
        list.specs[first..].iter_mut().for_each(|spec| spec.used = layer < layers_used);
    }
    let first = list.specs.len();
    list.norm(part, &format!("{prefix}.post_layernorm"), h, true);
    list.specs[first..].iter_mut().for_each(|spec| spec.used = false);
}

/// `mlp2x_gelu`; fresh values as `torch.nn.Linear`'s, which is what LLaVA aligns from.
fn projection(list: &mut List, from: usize, to: usize) {
    for (name, input) in [("linear_1", from), ("linear_2", to)] {
        let init = Init::Uniform {
            bound: 1.0 / (input as f64).sqrt(),
        };
        list.add(
            Part::Projection,
            format!("model.multi_modal_projector.{name}.weight"),
            &[to, input],
            init,
        );
        list.add(Part::Projection, format!("model.multi_modal_projector.{name}.bias"), &[to], init);
    }
}

/// `transformers.LlamaForCausalLM`; fresh values as Megatron's: what writes to the residual stream is
/// scaled by `1 / sqrt(2 layers)`.
fn language(list: &mut List, config: &TextConfig) {
    let part = Part::Language;
    let (h, f, d) = (config.hidden_size, config.intermediate_size, config.head_dim());
    let (q, kv) = (config.num_attention_heads * d, config.num_key_value_heads * d);
    let normal = Init::Normal {
        std: config.initializer_range,
    };
    let residual = Init::Normal {
        std: config.initializer_range / (2.0 * config.num_hidden_layers as f64).sqrt(),
    };
    let prefix = "model.language_model";

    list.add(part, format!("{prefix}.embed_tokens.weight"), &[config.vocab_size, h], normal);
    for layer in 0..config.num_hidden_layers {
        let layer_prefix = format!("{prefix}.layers.{layer}");
        list.norm(part, &format!("{layer_prefix}.input_layernorm"), h, false);
        for (name, shape, heads, init) in [
            ("self_attn.q_proj", [q, h], None, normal),
            ("self_attn.k_proj", [kv, h], Some(config.num_key_value_heads), normal),
            ("self_attn.v_proj", [kv, h], Some(config.num_key_value_heads), normal),
            ("self_attn.o_proj", [h, q], None, residual),
        ] {
            list.add(part, format!("{layer_prefix}.{name}.weight"), &shape, init);
            list.specs.iter_mut().last().into_iter().for_each(|spec| spec.heads = heads);
        }
        list.norm(part, &format!("{layer_prefix}.post_attention_layernorm"), h, false);
        for (name, shape, init) in [
            ("mlp.gate_proj", [f, h], normal),
            ("mlp.up_proj", [f, h], normal),
            ("mlp.down_proj", [h, f], residual),
        ] {
            list.add(part, format!("{layer_prefix}.{name}.weight"), &shape, init);
        }
    }
    list.norm(part, &format!("{prefix}.norm"), h, false);
    if !config.tie_word_embeddings {
        list.add(part, "lm_head.weight".into(), &[config.vocab_size, h], normal);
    }
}
