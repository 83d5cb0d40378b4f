//! Configs that an export has beside the weights: of transformers' processor, and of LLaVA's own code.

use super::table::ModelTable;
use neva_schemas::{FeatureSelect, LlavaModel, ProjectorType, VisionModelType};
use serde_json::{Value, json};

/// CLIPs that LLaVA's own code finds by their names on the hub: name, width, layers, image size, patch size.
const CLIPS: &[(&str, [usize; 4])] = &[
    ("openai/clip-vit-large-patch14-336", [1024, 24, 336, 14]),
    ("openai/clip-vit-large-patch14", [1024, 24, 224, 14]),
    ("openai/clip-vit-base-patch16", [768, 12, 224, 16]),
    ("openai/clip-vit-base-patch32", [768, 12, 224, 32]),
];

/// Name of the tower in the config of LLaVA's own code, if no CLIP on the hub has its sizes.
const OWN_TOWER: &str = "vision_tower";

impl ModelTable {
    /// Returns why no class of transformers computes this model; `None` if one does.
    pub fn unknown_to_transformers(&self) -> Option<String> {
        let projector = self.description.projector.as_ref()?.kind.explicit();
        (!matches!(projector, ProjectorType::Mlp(2) | ProjectorType::InternVl))
            .then(|| format!("no class of transformers has the projector `{projector}`: it has two linears, or InternVL's"))
    }

    /// Returns the content of `processor_config.json`; `None` for a model without images.
    pub fn processor_config(&self) -> Option<Value> {
        let tower = self.description.vision.as_ref()?;
        let projector = self.description.projector.as_ref()?;
        if projector.kind == ProjectorType::InternVl {
            let image_seq_length = self.description.image_seq_length();
            return Some(json!({ "processor_class": "InternVLProcessor", "image_seq_length": image_seq_length }));
        }
        let patches = (tower.config.image_size / tower.config.patch_size.max(1)).pow(2);
        let select = match tower.feature_select {
            FeatureSelect::Default => "default",
            FeatureSelect::Full => "full",
        };
        Some(json!({
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "num_additional_image_tokens": tower.config.tokens() - patches,
            "patch_size": tower.config.patch_size,
            "vision_feature_select_strategy": select,
        }))
    }

    /// Returns the `config.json` of LLaVA's own code.
    ///
    /// # Errors
    /// That code does not compute the model: one sentence.
    pub fn llava_code_config(&self) -> Result<Value, String> {
        let (Some(model), Some(decoder)) = (self.model().as_llava(), self.decoder_family()) else {
            return Err("LLaVA's own code needs a vision encoder: export a language model alone with --format hf".to_owned());
        };
        let mut config = decoder.write_config(&model.text_config);
        let (kind, class) = match decoder.hugging_face_type() {
            "llama" => ("llava_llama", "LlavaLlamaForCausalLM"),
            "mistral" => ("llava_mistral", "LlavaMistralForCausalLM"),
            other => {
                return Err(format!(
                    "LLaVA's own code has no language model of the type `{other}`: it has llama and mistral"
                ));
            }
        };
        let projector = projector(model)?;
        let tower = tower(model)?;
        let select = match model.vision_feature_select_strategy {
            FeatureSelect::Default => "patch",
            FeatureSelect::Full => "cls_patch",
        };
        let [layer] = model.vision_feature_layer.numbers() else {
            return Err("LLaVA's own code takes one `vision_feature_layer`, not a list".to_owned());
        };
        // Its class reads hidden states of a CLIP by number, as transformers does.
        let own = json!({
            "architectures": [class],
            "model_type": kind,
            "mm_hidden_size": model.vision_config.hidden_size,
            "mm_projector_type": projector,
            "mm_vision_select_feature": select,
            "mm_vision_select_layer": layer,
            "mm_vision_tower": tower,
            "mm_use_im_patch_token": false,
            "mm_use_im_start_end": false,
            "use_mm_proj": true,
            // Its weights are in this folder, not in the tower's own.
            "unfreeze_mm_vision_tower": true,
            "vision_config": self.vision_family().map(|family| family.write_config(&model.vision_config)),
        });
        for (name, value) in own.as_object().into_iter().flatten() {
            config[name] = value.clone();
        }
        Ok(config)
    }
}

fn projector(model: &LlavaModel) -> Result<String, String> {
    let kind = model.projector_type.explicit();
    if !model.multimodal_projector_bias {
        return Err("LLaVA's own code has projectors with biases only".to_owned());
    }
    match kind {
        ProjectorType::InternVl => Err("LLaVA's own code has no projector `internvl`".to_owned()),
        ProjectorType::Mlp(_) if model.projector_hidden_act != neva_schemas::Activation::Gelu => {
            Err("LLaVA's own code has projectors with GELU only".to_owned())
        }
        kind => Ok(kind.to_string()),
    }
}

fn tower(model: &LlavaModel) -> Result<&'static str, String> {
    let config = &model.vision_config;
    if config.model_type != VisionModelType::Clip {
        let name = config.model_type.name();
        return Err(format!("LLaVA's own code has no vision encoder of the type `{name}`: it has CLIP"));
    }
    let sizes = [config.hidden_size, config.num_hidden_layers, config.image_size, config.patch_size];
    let known = CLIPS.iter().find(|(_, known)| *known == sizes);
    Ok(known.map_or(OWN_TOWER, |(name, _)| name))
}
