//! A custom data module and a custom callback.

use neva_data::{Conversation, DataError, Dataset, Pixels, Sample, Template, Tokenizer, Turn, render};
use neva_engine::{Callback, DataModule, EngineError, Flow, Result, RunData, RunView};
use neva_schemas::{Finetune, Problem};
use neva_track::StepMetrics;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name, red, green and blue.
const COLOURS: [(&str, [f32; 3]); 4] = [
    ("Red.", [2.0, -2.0, -2.0]),
    ("Green.", [-2.0, 2.0, -2.0]),
    ("Blue.", [-2.0, -2.0, 2.0]),
    ("White.", [2.0, 2.0, 2.0]),
];

/// Images of one colour each, with the question which one it is. Its fields are those of `finetune.data` that not every
/// data module has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Colours {
    /// Number of samples.
    samples: usize,
    /// A folder with `tokenizer.json`, or `builtin:NAME`.
    tokenizer: String,
}

impl DataModule for Colours {
    fn open(&self, finetune: &Finetune, _: Option<&Path>) -> Result<RunData> {
        if self.samples == 0 {
            let problem = Problem::error("finetune.data.samples", "`samples` is 0, it must be at least 1");
            return Err(EngineError::Run(vec![problem]));
        }
        let tokenizer = Tokenizer::open(&self.tokenizer)?;
        Ok(RunData {
            // It is saved in checkpoints, so that `generate` needs nothing else.
            artifacts: tokenizer.files(),
            train: Arc::new(Images {
                samples: self.samples,
                edge: finetune.model.description().image_size(),
                tokenizer,
            }),
            val: None,
        })
    }
}

struct Images {
    samples: usize,
    /// Height and width of an image.
    edge: usize,
    tokenizer: Tokenizer,
}

impl Dataset for Images {
    fn len(&self) -> usize {
        self.samples
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        if index >= self.samples {
            return Err(DataError::Index { index, len: self.samples });
        }
        let (name, rgb) = COLOURS[index % COLOURS.len()];
        let turn = Turn {
            question: "<image>\nWhich colour is this?".into(),
            answer: Some(name.into()),
        };
        let conversation = Conversation {
            system: None,
            turns: vec![turn],
        };
        let prompt = render(Template::named("v1")?, &conversation)?;
        // One id for the image, and labels at the positions of the answer.
        let encoded = self.tokenizer.encode_prompt(&prompt)?;
        // Darker with each sample, so that no two are equal.
        let light = 1.0 - 0.5 * index as f32 / self.samples as f32;
        let plane = |value: f32| std::iter::repeat_n(value * light, self.edge * self.edge);
        Ok(Sample {
            name: self.name(index),
            ids: encoded.ids,
            labels: encoded.labels,
            images: vec![Pixels {
                height: self.edge,
                width: self.edge,
                chw: rgb.into_iter().flat_map(plane).collect(),
            }],
        })
    }

    fn name(&self, index: usize) -> String {
        format!("colour {index}")
    }
}

/// Writes the lowest loss of a run to a file in the run's folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BestLoss {
    file: PathBuf,
    #[serde(skip)]
    best: Option<f64>,
}

impl Callback for BestLoss {
    fn on_step_end(&mut self, run: RunView<'_>, metrics: &StepMetrics) -> Result<Flow> {
        // A step without a labelled token has no loss.
        let Some(loss) = metrics.reduced_train_loss else {
            return Ok(Flow::Continue);
        };
        if self.best.is_none_or(|best| loss < best) {
            self.best = Some(loss);
            // All ranks have the same loss, and one of them writes.
            if run.is_first {
                let path = run.run_dir.join(&self.file);
                let text = json!({ "step": metrics.step, "loss": loss }).to_string();
                std::fs::write(&path, text).map_err(|source| EngineError::Io {
                    action: "write",
                    path,
                    source,
                })?;
            }
        }
        Ok(Flow::Continue)
    }

    /// Returns the state from which a resumed run continues.
    fn state(&self) -> Value {
        json!(self.best)
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        self.best = state.as_f64();
        Ok(())
    }
}
