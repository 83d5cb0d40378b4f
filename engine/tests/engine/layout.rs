//! Layouts, and the model and batches that tests compare over layouts.

use crate::distributed::ddp;
use crate::setting::{ONE, lay_out, small, without_image, without_labels};
use neva_schemas::{Finetune, ParallelSizes};

/// Sizes and options of a layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) sizes: ParallelSizes,
    pub(crate) chunks: Option<u32>,
    pub(crate) sequence_parallel: bool,
    /// Layers of the first and the last stage, if they differ from the others.
    pub(crate) ends: [Option<u32>; 2],
    pub(crate) distributed: bool,
}

/// Returns a layout with `pp` pipeline stages alone.
pub(crate) fn pipeline(pp: u32) -> Layout {
    Layout::plain(ParallelSizes { pp, ..ONE })
}

impl Layout {
    pub(crate) fn plain(sizes: ParallelSizes) -> Self {
        Self {
            sizes,
            chunks: None,
            sequence_parallel: false,
            ends: [None; 2],
            distributed: false,
        }
    }

    pub(crate) fn chunks(self, chunks: u32) -> Self {
        Self {
            chunks: Some(chunks),
            ..self
        }
    }

    pub(crate) fn over(mut self, tp: u32, dp: u32) -> Self {
        (self.sizes.tp, self.sizes.dp) = (tp, dp);
        self
    }

    pub(crate) fn context(mut self, cp: u32) -> Self {
        self.sizes.cp = cp;
        self
    }

    pub(crate) fn distributed(self) -> Self {
        Self { distributed: true, ..self }
    }

    pub(crate) fn sequence_parallel(self) -> Self {
        Self {
            sequence_parallel: true,
            ..self
        }
    }

    pub(crate) fn ends(self, first: Option<u32>, last: Option<u32>) -> Self {
        Self {
            ends: [first, last],
            ..self
        }
    }

    pub(crate) fn of(self, finetune: &Finetune) -> Finetune {
        let mut finetune = finetune.clone();
        lay_out(&mut finetune, self.sizes);
        ddp(&mut finetune, self.distributed, self.distributed);
        let strategy = &mut finetune.trainer.strategy;
        strategy.virtual_pipeline_model_parallel_size = self.chunks;
        strategy.sequence_parallel = self.sequence_parallel;
        strategy.num_layers_in_first_pipeline_stage = self.ends[0];
        strategy.num_layers_in_last_pipeline_stage = self.ends[1];
        finetune
    }
}

/// Returns a run with four layers, and half as many key heads as query heads.
pub(crate) fn four_layers() -> Finetune {
    let mut finetune = small();
    let text = &mut finetune.model.as_llava_mut().unwrap().text_config;
    text.num_hidden_layers = 4;
    assert_eq!((text.num_attention_heads, text.num_key_value_heads), (4, 2));
    finetune
}

/// Removes images and labels of samples, as in real batches. With global batches of 8 and microbatches of 2, two
/// data-parallel ranks have samples 0, 1, 4, 5 and 2, 3, 6, 7; four ranks have two each. Images are missing in one
/// microbatch of each step, and in one whole step. Labels are missing in single samples, in one rank's last microbatch,
/// and once in all samples of a rank.
pub(crate) fn mixed(index: usize, sample: &mut neva_data::Sample) {
    let (step, within) = (index / 8, index % 8);
    if step == 3 || matches!(within, 2 | 3) {
        without_image(sample);
    }
    if matches!((step, within), (5, 2 | 3) | (_, 4 | 6 | 7)) {
        without_labels(sample);
    }
}
