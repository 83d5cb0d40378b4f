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

/// Returns what to tell if the kernels of this run, `now`, differ from those that computed its checkpoint.
pub(crate) fn changed_kernels(before: Option<&str>, now: Option<&str>) -> Option<String> {
    let (before, now) = (before?, now?);
    (before != now).then(|| {
        format!(
            "the checkpoint was computed with other kernels of the processor ({before}) than this run has ({now}): losses differ in \
             their last bits from those of a run on one kind of processor"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_tells_of_other_kernels() {
        let own = processor_kernels(Device::Cpu);
        assert_eq!(processor_kernels(Device::Cuda(0)), None);
        assert_eq!(changed_kernels(own.as_deref(), own.as_deref()), None);
        // Checkpoints of earlier versions and of GPUs name none.
        assert_eq!(changed_kernels(None, own.as_deref()), None);
        let text = changed_kernels(Some("rows avx2, attention libtorch, float32 products mkl"), own.as_deref());
        let other = own.as_deref() != Some("rows avx2, attention libtorch, float32 products mkl");
        assert_eq!(text.is_some_and(|text| text.contains("other kernels")), other);
    }
}
