//! The names of functions and classes that a pickle may use. None of them is Python's: each one stands for an action of
//! this reader.

use safetensors::Dtype;

/// A function or class that this reader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch.Size`, `list`, `tuple`, `set`: a sequence.
    Sequence,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which has the kind of the values.
    RebuildTypedTensor,
    /// `torch._utils._rebuild_parameter`, also with state.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`.
    RebuildFromType,
    /// `torch.FloatStorage` and the like; `None` for `UntypedStorage`.
    Storage(Option<Dtype>),
    /// `torch.float32` and the like.
    Dtype(Dtype),
    /// `torch.Tensor`, `torch.nn.Parameter`, `torch.device`: only an argument of other functions.
    Type,
}

/// Classes of storages.
const STORAGES: &[(&str, Option<Dtype>)] = &[
    ("FloatStorage", Some(Dtype::F32)),
    ("HalfStorage", Some(Dtype::F16)),
    ("BFloat16Storage", Some(Dtype::BF16)),
    ("DoubleStorage", Some(Dtype::F64)),
    ("LongStorage", Some(Dtype::I64)),
    ("IntStorage", Some(Dtype::I32)),
    ("ShortStorage", Some(Dtype::I16)),
    ("CharStorage", Some(Dtype::I8)),
    ("ByteStorage", Some(Dtype::U8)),
    ("BoolStorage", Some(Dtype::BOOL)),
    ("UntypedStorage", None),
];

/// PyTorch's names of kinds.
const DTYPES: &[(&str, Dtype)] = &[
    ("float32", Dtype::F32),
    ("float16", Dtype::F16),
    ("bfloat16", Dtype::BF16),
    ("float64", Dtype::F64),
    ("int64", Dtype::I64),
    ("int32", Dtype::I32),
    ("int16", Dtype::I16),
    ("int8", Dtype::I8),
    ("uint8", Dtype::U8),
    ("uint16", Dtype::U16),
    ("uint32", Dtype::U32),
    ("uint64", Dtype::U64),
    ("bool", Dtype::BOOL),
    ("float8_e4m3fn", Dtype::F8_E4M3),
    ("float8_e5m2", Dtype::F8_E5M2),
];

impl Global {
    /// Returns the global of a module; `None` for one that is not in the list.
    pub(super) fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") | ("builtins" | "__builtin__", "list" | "tuple" | "set") => Some(Self::Sequence),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTypedTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Some(Self::RebuildParameter),
            ("torch._tensor", "_rebuild_from_type_v2") => Some(Self::RebuildFromType),
            ("torch", "Tensor" | "device") | ("torch.nn.parameter" | "torch.nn", "Parameter" | "Buffer") => Some(Self::Type),
            ("torch" | "torch.storage" | "torch.cuda", _) => {
                let storage = STORAGES
                    .iter()
                    .find(|(own, _)| *own == name)
                    .map(|(_, dtype)| Self::Storage(*dtype));
                storage.or_else(|| DTYPES.iter().find(|(own, _)| *own == name).map(|(_, dtype)| Self::Dtype(*dtype)))
            }
            _ => None,
        }
    }
}
