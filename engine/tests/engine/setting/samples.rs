//! Mock samples that a test may change, and microbatches of them.

use neva_data::{Dataset, Order};
use neva_engine::comm::Mesh;
use neva_engine::parallel::zigzag;
use neva_engine::trainer::{Microbatch, batch_sampler, merge_options, run_data, to_device};
use neva_schemas::Finetune;
use std::sync::Arc;
use tch::Device;

/// Changes the sample of that index.
type Edit = dyn Fn(usize, &mut neva_data::Sample) + Send + Sync;

/// The run's mock samples, each changed by `edit`, which gets the sample's index.
#[derive(Clone)]
pub(crate) struct Samples {
    inner: Arc<dyn Dataset>,
    edit: Arc<Edit>,
}

impl Samples {
    pub(crate) fn of(finetune: &Finetune) -> Self {
        Self::edited(finetune, |_, _| {})
    }

    pub(crate) fn edited(finetune: &Finetune, edit: impl Fn(usize, &mut neva_data::Sample) + Send + Sync + 'static) -> Self {
        Self {
            inner: run_data(finetune, None).unwrap().train,
            edit: Arc::new(edit),
        }
    }
}

impl Dataset for Samples {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn get(&self, index: usize) -> Result<neva_data::Sample, neva_data::DataError> {
        let mut sample = self.inner.get(index)?;
        (self.edit)(index, &mut sample);
        Ok(sample)
    }

    fn name(&self, index: usize) -> String {
        self.inner.name(index)
    }
}

/// Removes the image from a sample.
pub(crate) fn without_image(sample: &mut neva_data::Sample) {
    sample.images.clear();
    sample.ids.retain(|id| *id != neva_data::IMAGE_TOKEN_INDEX);
    sample.labels = sample.ids.clone();
}

/// Removes the labels from a sample.
pub(crate) fn without_labels(sample: &mut neva_data::Sample) {
    sample.labels.fill(neva_data::IGNORE_INDEX);
}

/// Returns this rank's microbatches of a step. Samples are in the dataset's order.
pub(crate) fn microbatches(finetune: &Finetune, samples: &Samples, mesh: &Mesh, step: u64) -> Vec<Microbatch> {
    let (slice, options) = (batch_sampler(finetune, mesh), merge_options(finetune));
    let order = Order {
        seed: 0,
        len: samples.len() as u64,
        shuffle: false,
    };
    let each = slice.num_microbatches();
    assert!(each > 0, "{:?}", slice.problem());
    let batch = |n| neva_data::Batch::microbatch(samples, &order, &slice, &options, 0, n).unwrap();
    (step * each..(step + 1) * each)
        .map(|n| on_rank(&batch(n), options.image_seq_len, mesh))
        .collect()
}

/// Returns a rank's microbatch of a batch.
pub(crate) fn on_rank(batch: &neva_data::Batch, image_seq_len: usize, mesh: &Mesh) -> Microbatch {
    let whole = Microbatch::of(
        to_device(batch, image_seq_len, Device::Cpu).unwrap(),
        batch.tokens.seq_lens().iter().sum::<usize>() as u64,
    );
    whole.keyed(batch).context_shard(zigzag(mesh)).unwrap()
}
