//! Which kernels compute on the processor of this rank. They are chosen by its instruction sets alone, never by timing, so the
//! same kind of processor computes the same bits.

use neva_kernels::{AttentionKind, InstructionSet};
use neva_torch_ffi::float32_products_by_onednn;
use tch::Device;

/// Returns the names of the kernels, as checkpoints store them; `None` on a GPU.
pub(crate) fn processor_kernels(device: Device) -> Option<String> {
    let products = if float32_products_by_onednn() { "onednn" } else { "mkl" };
    (device == Device::Cpu).then(|| {
        let (rows, attention) = (InstructionSet::best().name(), AttentionKind::of_processor().name());
        format!("rows {rows}, attention {attention}, float32 products {products}")
    })
}
