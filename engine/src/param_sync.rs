//! Waits for the parameter gather of the distributed optimizer, weight by weight.

use crate::error::Result;
use std::fmt;
use std::sync::{Arc, OnceLock};
use tch::Tensor;

/// Waits until the trainable parameter of this index has the values of the last step.
pub type FinishParamSync = Box<dyn Fn(usize) -> Result<()> + Send + Sync>;

/// Link from the weights of a model to the optimizer that gathers them. Before [`ParamSync::connect`], weights do not wait.
#[derive(Clone, Default)]
pub struct ParamSync(Arc<OnceLock<FinishParamSync>>);

impl ParamSync {
    /// Makes all weights wait through `finish` from now on.
    pub fn connect(&self, finish: FinishParamSync) {
        // A model has one trainer.
        let _ = self.0.set(finish);
    }

    fn finish(&self, index: usize) -> Result<()> {
        self.0.get().map_or(Ok(()), |finish| finish(index))
    }
}

impl fmt::Debug for ParamSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ParamSync").field(&self.0.get().is_some()).finish()
    }
}

/// A local shard of a parameter in a block. Its values can be read only after their gather.
#[derive(Debug)]
pub struct Weight {
    tensor: Tensor,
    /// Index among the trainable parameters, if it is trainable.
    sync: Option<(usize, ParamSync)>,
}

impl From<Tensor> for Weight {
    /// A weight that no rank gathers.
    fn from(tensor: Tensor) -> Self {
        Self { tensor, sync: None }
    }
}

impl Weight {
    pub(crate) fn new(tensor: Tensor, sync: Option<(usize, ParamSync)>) -> Self {
        Self { tensor, sync }
    }

    /// Returns the values of the last step, after their gather.
    ///
    /// # Errors
    /// The rank that sends them failed.
    pub fn get(&self) -> Result<&Tensor> {
        if let Some((index, sync)) = &self.sync {
            sync.finish(*index)?;
        }
        Ok(&self.tensor)
    }

    /// Returns the size of the local shard.
    pub fn size(&self) -> Vec<i64> {
        self.tensor.size()
    }
}
