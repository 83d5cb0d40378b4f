//! Conversion of tensor kinds and reductions to NCCL's types.

use crate::comm::Reduce;
use cudarc::nccl::sys::{ncclDataType_t, ncclRedOp_t};
use tch::{Kind, Tensor};

/// Returns NCCL's data type; `None` for kinds that it can transfer only as bytes.
fn computed(kind: Kind) -> Option<ncclDataType_t> {
    Some(match kind {
        Kind::Float => ncclDataType_t::ncclFloat32,
        Kind::Double => ncclDataType_t::ncclFloat64,
        Kind::Half => ncclDataType_t::ncclFloat16,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        Kind::Int64 => ncclDataType_t::ncclInt64,
        Kind::Int => ncclDataType_t::ncclInt32,
        Kind::Int8 => ncclDataType_t::ncclInt8,
        Kind::Uint8 => ncclDataType_t::ncclUint8,
        _ => return None,
    })
}

/// Returns data type and count for a transfer of a tensor: its elements, or its bytes.
pub(super) fn elements(tensor: &Tensor) -> (ncclDataType_t, usize) {
    let (kind, count) = (tensor.kind(), tensor.numel());
    computed(kind).map_or((ncclDataType_t::ncclUint8, count * kind.elt_size_in_bytes()), |kind| (kind, count))
}

/// Returns the data type of a reduction. Booleans support `Max` only, which is "or" for the bytes 0 and 1.
pub(super) fn reducible(kind: Kind, reduce: Reduce) -> Result<ncclDataType_t, String> {
    match (kind, reduce) {
        (Kind::Bool, Reduce::Max) => Ok(ncclDataType_t::ncclUint8),
        _ => computed(kind).ok_or_else(|| format!("NCCL has no {reduce:?} of {kind:?}")),
    }
}

/// Returns NCCL's reduction.
pub(super) fn operator(reduce: Reduce) -> ncclRedOp_t {
    match reduce {
        Reduce::Sum => ncclRedOp_t::ncclSum,
        Reduce::Max => ncclRedOp_t::ncclMax,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn kinds_are_native_or_sent_as_bytes() {
        use ncclDataType_t::*;
        let cases = [
            (Kind::Float, ncclFloat32, 6),
            (Kind::Double, ncclFloat64, 6),
            (Kind::Half, ncclFloat16, 6),
            (Kind::BFloat16, ncclBfloat16, 6),
            (Kind::Int64, ncclInt64, 6),
            (Kind::Int, ncclInt32, 6),
            (Kind::Int8, ncclInt8, 6),
            (Kind::Uint8, ncclUint8, 6),
            // As bytes.
            (Kind::Bool, ncclUint8, 6),
            (Kind::Int16, ncclUint8, 12),
            (Kind::Float8e4m3fn, ncclUint8, 6),
        ];
        for (kind, carried, count) in cases {
            let tensor = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).to_kind(kind);
            assert_eq!(elements(&tensor), (carried, count), "{kind:?}");
            let sum = reducible(kind, Reduce::Sum);
            match computed(kind) {
                Some(computed) => assert_eq!((computed, sum), (carried, Ok(carried)), "{kind:?}"),
                None => assert_eq!(sum, Err(format!("NCCL has no Sum of {kind:?}"))),
            }
        }
        assert_eq!(reducible(Kind::Bool, Reduce::Max), Ok(ncclUint8));
        assert!(reducible(Kind::Int16, Reduce::Max).is_err());
    }
}
