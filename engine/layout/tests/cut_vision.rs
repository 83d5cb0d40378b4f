//! Tensor-parallel vision encoder and projector: cut of each parameter, and partial sums of gradients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use neva_layout::{Cut, Families, ParamSpec, TensorParallelImages, lora_adapters};
use neva_schemas::{LlavaModel, LoRA, MegatronStrategy, Model, VisionPlacement};
use std::collections::BTreeSet;

/// Returns parameters of the default model, with adapters on all linears of the vision encoder and the projector.
fn parameters(placement: VisionPlacement) -> Vec<ParamSpec> {
    let model = Model::Llava(LlavaModel::default());
    let mut specs = Families::builtin().resolve(&model, "model").unwrap().parameters(placement);
    let targets = ["*vision_tower*", "*multi_modal_projector*"];
    let lora = LoRA {
        target_modules: targets.map(str::to_owned).into(),
        ..LoRA::default()
    };
    specs.extend(lora_adapters(&specs, &lora, "peft").unwrap().parameters);
    specs
}

fn in_vision(spec: &ParamSpec) -> bool {
    !spec.name.starts_with("model.language_model.") && !spec.name.starts_with("lm_head.")
}

/// Returns the end of a name, without the layer's number.
fn end(name: &str) -> String {
    let name = name
        .trim_start_matches("model.vision_tower.")
        .trim_start_matches("model.multi_modal_");
    match name.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
        Some((_, rest)) => rest.to_owned(),
        None => name.to_owned(),
    }
}

#[test]
fn matrices_are_cut_and_the_rest_is_replicated() {
    let specs = parameters(VisionPlacement::Cut);
    let cut_as = |cut: Cut| -> BTreeSet<String> {
        let own = specs.iter().filter(|spec| in_vision(spec) && spec.cut == cut);
        own.map(|spec| end(&spec.name)).collect()
    };
    let check = |cut, names: &[&str]| {
        let names: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(cut_as(cut), names, "{cut:?}");
    };
    check(
        Cut::Column,
        &[
            "self_attn.q_proj.weight",
            "self_attn.q_proj.bias",
            "self_attn.q_proj.lora_B.weight",
            "self_attn.k_proj.weight",
            "self_attn.k_proj.bias",
            "self_attn.k_proj.lora_B.weight",
            "self_attn.v_proj.weight",
            "self_attn.v_proj.bias",
            "self_attn.v_proj.lora_B.weight",
            "mlp.fc1.weight",
            "mlp.fc1.bias",
            "mlp.fc1.lora_B.weight",
            "projector.linear_1.weight",
            "projector.linear_1.bias",
            "projector.linear_1.lora_B.weight",
        ],
    );
    check(
        Cut::Row,
        &[
            "self_attn.out_proj.weight",
            "self_attn.out_proj.lora_A.weight",
            "mlp.fc2.weight",
            "mlp.fc2.lora_A.weight",
            "projector.linear_2.weight",
            "projector.linear_2.lora_A.weight",
        ],
    );
    check(
        Cut::Replicate,
        &[
            "embeddings.class_embedding",
            "embeddings.patch_embedding.weight",
            "embeddings.position_embedding.weight",
            "pre_layrnorm.weight",
            "pre_layrnorm.bias",
            "layer_norm1.weight",
            "layer_norm1.bias",
            "self_attn.q_proj.lora_A.weight",
            "self_attn.k_proj.lora_A.weight",
            "self_attn.v_proj.lora_A.weight",
            "self_attn.out_proj.bias",
            "self_attn.out_proj.lora_B.weight",
            "layer_norm2.weight",
            "layer_norm2.bias",
            "mlp.fc1.lora_A.weight",
            "mlp.fc2.bias",
            "mlp.fc2.lora_B.weight",
            "post_layernorm.weight",
            "post_layernorm.bias",
            "projector.linear_1.lora_A.weight",
            "projector.linear_2.bias",
            "projector.linear_2.lora_B.weight",
        ],
    );
    check(Cut::Vocab, &[]);
}

#[test]
fn other_placements_replicate_it_and_cut_the_same_language_model() {
    let cut = parameters(VisionPlacement::Cut);
    for placement in [VisionPlacement::Shared, VisionPlacement::Duplicated] {
        let other = parameters(placement);
        assert_eq!(other.len(), cut.len());
        for (other, cut) in other.iter().zip(&cut) {
            assert_eq!((&other.name, &other.shape, other.init), (&cut.name, &cut.shape, cut.init));
            if in_vision(other) {
                assert_eq!(other.copies(4), 4, "{}", other.name);
            } else {
                assert_eq!(other.cut, cut.cut, "{}", other.name);
            }
        }
    }
}

#[test]
fn ranks_that_see_the_same_images_have_whole_gradients() {
    for (vision_placement, partial) in [
        (VisionPlacement::Shared, true),
        (VisionPlacement::Duplicated, false),
        (VisionPlacement::Cut, false),
    ] {
        for sequence_parallel in [false, true] {
            let strategy = MegatronStrategy {
                tensor_model_parallel_size: 2,
                sequence_parallel,
                vision_placement,
                ..MegatronStrategy::default()
            };
            for spec in parameters(vision_placement).iter().filter(|spec| in_vision(spec)) {
                assert_eq!(
                    spec.is_partial_sum(&strategy),
                    partial,
                    "{}, {vision_placement:?}, sequence parallel: {sequence_parallel}",
                    spec.name
                );
            }
        }
    }
}

/// CLIP ViT-L/14 at 336 pixels, as in LLaVA-1.5, in bf16.
#[test]
fn what_is_sent_grows_with_layers_and_images() {
    let images = TensorParallelImages {
        tensor: 2,
        images: 1,
        layers: 23,
        hidden: 577 * 1024,
        selected: 576 * 1024,
        features: 576 * 4096,
        pairs: 1,
        normed: 0,
        bytes: 2,
    };
    // On two ranks an all-reduce of n bytes sends n.
    assert_eq!(images.forward(), 2 * (46 * 577 * 1024 + 576 * 4096));
    assert_eq!(images.backward(), 2 * (46 * 577 * 1024 + 576 * 1024));
    let four = TensorParallelImages {
        tensor: 4,
        images: 3,
        ..images
    };
    assert_eq!(four.forward() * 2, images.forward() * 9);
    let alone = TensorParallelImages { tensor: 1, ..images };
    assert_eq!((alone.forward(), alone.backward()), (0, 0));
    // Four linears, and InternViT's norms of queries and keys.
    let (deep, normed) = (
        TensorParallelImages { pairs: 2, ..images },
        TensorParallelImages { normed: 577, ..images },
    );
    assert_eq!(deep.forward() - images.forward(), 2 * 576 * 4096);
    assert_eq!(deep.backward_of_projector(), 2 * 576 * 4096);
    assert_eq!(images.backward_of_projector(), 0);
    assert_eq!(normed.backward() - images.backward(), 46 * 577 * 4);
}
