//! A custom family of vision towers: its rows, its forward pass, and one line in the registry of the rank program.

use crate::layout::mixed;
use crate::setting::{ONE, Samples, close, close_tensors, small, train, within_limit};
use neva_engine::Result;
use neva_engine::model::VisionEncoder;
use neva_engine::nn::{Block, Build, LayerNorm, Linear, Stack};
use neva_engine::param_sync::Weight;
use neva_engine::trainer::Registry;
use neva_layout::families::{ConfigReader, VisionFamily};
use neva_layout::{Cut, Init, ParamSpec, Part, PartialSum, Stage};
use neva_schemas::{CustomFamily, FeatureSelect, Finetune, ParallelSizes, VisionConfig, VisionModelType, VisionPlacement, VisionTower};
use serde_json::{Value, json};
use tch::Tensor;

const NAME: &str = "own::Patches";
const TYPE: &str = "patches";

/// Patches, each on its own: layers are a norm and an MLP with a residual.
#[derive(Debug)]
struct Patches;

impl VisionFamily for Patches {
    fn hugging_face_type(&self) -> &'static str {
        TYPE
    }

    fn read_config(&self, config: &Value, at: &str, reader: &mut ConfigReader) -> VisionConfig {
        VisionConfig {
            model_type: model_type(),
            hidden_size: reader.size(config, at, "hidden_size", 32),
            ..VisionConfig::default()
        }
    }

    fn write_config(&self, config: &VisionConfig) -> Value {
        json!({"model_type": TYPE, "hidden_size": config.hidden_size})
    }

    fn parameters(&self, tower: &VisionTower, prefix: &str, placement: VisionPlacement) -> Vec<ParamSpec> {
        let VisionConfig {
            hidden_size: h,
            intermediate_size: f,
            patch_size: patch,
            ..
        } = tower.config;
        let row = |name: String, shape: &[usize], init: Init, cut: Cut| {
            let cut = if placement == VisionPlacement::Cut { cut } else { Cut::Replicate };
            ParamSpec {
                name: format!("{prefix}.{name}"),
                shape: shape.to_vec(),
                init,
                cut,
                heads: None,
                stage: Stage::First,
                part: Part::Vision,
                adapts: None,
                lora: None,
                partial_sum: PartialSum::SharedImages.if_replicated(cut),
                used: true,
            }
        };
        let normal = Init::Normal { std: 0.2 };
        let mut rows = vec![row("patch.weight".into(), &[h, 3, patch, patch], normal, Cut::Replicate)];
        for layer in 0..tower.config.num_hidden_layers {
            rows.extend([
                row(format!("layers.{layer}.norm.weight"), &[h], Init::Ones, Cut::Replicate),
                row(format!("layers.{layer}.norm.bias"), &[h], Init::Zeros, Cut::Replicate),
                row(format!("layers.{layer}.up.weight"), &[f, h], normal, Cut::Column),
                row(format!("layers.{layer}.down.weight"), &[h, f], normal, Cut::Row),
            ]);
        }
        rows
    }

    fn hub_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn canonical_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn part_config(&self, config: &Value) -> Option<Value> {
        (config.get("model_type")? == TYPE).then(|| config.clone())
    }

    fn part_types(&self) -> &'static [&'static str] {
        &[TYPE]
    }

    fn part_name(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    fn is_beside(&self, _: &str) -> bool {
        false
    }

    fn is_derived(&self, _: &str, _: &VisionConfig) -> bool {
        false
    }
}

#[derive(Debug)]
struct Tower {
    patch: Weight,
    layers: Stack<Layer>,
}

fn build(tower: &VisionTower, build: &Build<'_>) -> Result<Box<dyn VisionEncoder>> {
    Ok(Box::new(Tower {
        patch: build.weight("patch.weight")?,
        layers: Stack::new(build, "layers", 0..tower.config.num_hidden_layers, |_, build| Layer::new(build))?,
    }))
}

impl VisionEncoder for Tower {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let weight = self.patch.get()?;
        let x_bhs = pixels.conv2d(weight, None::<Tensor>, weight.size()[2], 0, 1, 1).flatten(2, 3);
        self.layers.forward(&x_bhs.transpose(1, 2), &())
    }
}

#[derive(Debug)]
struct Layer {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn new(build: &Build<'_>) -> Result<Self> {
        Ok(Self {
            norm: build.layer_norm("norm", 1e-5)?,
            up: build.linear("up")?,
            down: build.linear("down")?,
        })
    }
}

impl Block for Layer {
    type With = ();

    fn forward(&self, x_bsh: &Tensor, (): &()) -> Result<Tensor> {
        let up_bsf = self.up.forward(&self.norm.forward(x_bsh)?)?;
        Ok(x_bsh + self.down.forward(&up_bsf.gelu("none"))?)
    }
}

fn model_type() -> VisionModelType {
    let mut family = CustomFamily::named(NAME);
    family.0.insert("class_token".to_owned(), false.into());
    VisionModelType::Custom(family)
}

/// Returns the registry with the family.
pub(crate) fn added(registry: Registry) -> Registry {
    registry.vision(NAME, &Patches, build)
}

/// Returns a small run with a tower of the family.
fn finetune() -> Finetune {
    let mut finetune = small();
    let model = finetune.model.as_llava_mut().unwrap();
    model.vision_config.model_type = model_type();
    model.vision_feature_select_strategy = FeatureSelect::Full;
    model.vision_feature_layer = vec![model.vision_config.num_hidden_layers as i64].into();
    finetune
}

#[test]
fn trains_in_every_layout_as_on_one_rank() {
    within_limit(|| {
        let mut finetune = finetune();
        let samples = Samples::edited(&finetune, mixed);
        let expected = train(&finetune, &samples, ONE, 4);
        assert!(expected.losses[3] < expected.losses[0], "{:?}", expected.losses);
        assert!(expected.weights.keys().any(|name| name.ends_with("layers.1.up.weight")));
        for sizes in [
            ParallelSizes { tp: 2, ..ONE },
            ParallelSizes { pp: 2, ..ONE },
            ParallelSizes { cp: 2, ..ONE },
            ParallelSizes { dp: 2, ..ONE },
        ] {
            for placement in [VisionPlacement::Shared, VisionPlacement::Cut] {
                finetune.trainer.strategy.vision_placement = placement;
                let got = train(&finetune, &samples, sizes, 4);
                let name = format!("{sizes:?}, {placement:?}");
                close(&format!("{name}: loss"), &got.losses, &expected.losses, 1e-5);
                close_tensors(&name, &got.weights, &expected.weights, 1e-4);
            }
        }
    });
}
