//! The kernels of the processor, by instruction set.

use crate::kernels::Kernels;
use crate::launch::Launch;
use neva_torch_ffi::{Error, Result};
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::{Arc, LazyLock};
use tch::Device;

/// Kernels of `cu/` that the processor has, too, in fp32 and bf16.
const KERNELS: [&str; 6] = [
    "rms_norm",
    "rms_norm_input_grad",
    "rms_norm_weight_grad",
    "rope",
    "swiglu",
    "swiglu_grad",
];

/// Kernels of the best instruction set.
static BEST: LazyLock<Kernels> = LazyLock::new(|| Kernels::of_processor(InstructionSet::best()));

/// Instruction sets that the kernels are compiled for, the best one last. Results differ in their last bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What every processor of the architecture has.
    Generic,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 with F, BW, DQ and VL.
    Avx512,
    /// These, and AVX-512 BF16.
    Avx512Bf16,
}

impl InstructionSet {
    const ALL: [Self; 4] = [Self::Generic, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// Returns the sets that this processor has.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// Returns the best set that this processor has.
    pub fn best() -> Self {
        static SET: LazyLock<InstructionSet> = LazyLock::new(|| InstructionSet::available().max().unwrap_or(InstructionSet::Generic));
        *SET
    }

    /// Returns the name, as checkpoints store it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512_bf16",
        }
    }

    /// Returns whether this processor has the set, and the compiler of this program had it.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Generic => true,
            Self::Avx2 => cfg!(with_avx2) && has_avx2(),
            Self::Avx512 => cfg!(with_avx512) && has_avx512(),
            Self::Avx512Bf16 => cfg!(with_avx512_bf16) && has_avx512() && has_bf16(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

/// Declares the functions of one instruction set, and picks one of them by name.
macro_rules! by_set {
    ($picked:ident: $kind:ty { $generic:ident, $avx2:ident, $avx512:ident, $avx512_bf16:ident }
        ($($name:ident: $argument:ty),*) $(-> $result:ty)?) => {
        fn $picked(set: InstructionSet) -> $kind {
            unsafe extern "C" {
                fn $generic($($name: $argument),*) $(-> $result)?;
                #[cfg(with_avx2)]
                fn $avx2($($name: $argument),*) $(-> $result)?;
                #[cfg(with_avx512)]
                fn $avx512($($name: $argument),*) $(-> $result)?;
                #[cfg(with_avx512_bf16)]
                fn $avx512_bf16($($name: $argument),*) $(-> $result)?;
            }
            match set {
                #[cfg(with_avx2)]
                InstructionSet::Avx2 => $avx2,
                #[cfg(with_avx512)]
                InstructionSet::Avx512 => $avx512,
                #[cfg(with_avx512_bf16)]
                InstructionSet::Avx512Bf16 => $avx512_bf16,
                _ => $generic,
            }
        }
    };
}

type Rows = unsafe extern "C" fn(*const c_char, u32, *mut *mut c_void) -> c_int;

by_set!(rows: Rows { neva_rows_generic, neva_rows_avx2, neva_rows_avx512, neva_rows_avx512_bf16 }(
    kernel: *const c_char, blocks: u32, arguments: *mut *mut c_void
) -> c_int);

/// Arguments of cross entropy (`Entropy` in `cpp/rows.cpp`).
#[repr(C)]
pub(crate) struct Entropy {
    pub(crate) logits: *mut c_void,
    pub(crate) targets: *const i64,
    pub(crate) losses: *mut f32,
    pub(crate) rows: i64,
    pub(crate) width: i64,
    pub(crate) grad: i32,
}

type CrossEntropy = unsafe extern "C" fn(*const Entropy, i32);

by_set!(entropy_function: CrossEntropy {
    neva_cross_entropy_generic, neva_cross_entropy_avx2, neva_cross_entropy_avx512, neva_cross_entropy_avx512_bf16
}(entropy: *const Entropy, kind: i32));

/// Computes cross entropy.
///
/// # Safety
/// The pointers of `entropy` are to as many values of the data type `kind` (0 for fp32, 1 for bf16) as it says, and nothing
/// else uses the logits and the losses.
pub(crate) unsafe fn cross_entropy(set: InstructionSet, entropy: &Entropy, kind: i32) {
    // SAFETY: the caller guarantees it, and the processor has the set (`InstructionSet::available`).
    unsafe { entropy_function(set)(entropy, kind) }
}

/// Arguments of splitting fp32 values into halves, and of joining them (`Halves` in `cpp/rows.cpp`).
#[repr(C)]
pub(crate) struct HalvesCall {
    pub(crate) values: *mut f32,
    pub(crate) high: *mut u16,
    pub(crate) low: *mut u16,
    pub(crate) count: i64,
}

type HalvesFunction = unsafe extern "C" fn(*const HalvesCall, i32);

by_set!(halves_function: HalvesFunction {
    neva_halves_generic, neva_halves_avx2, neva_halves_avx512, neva_halves_avx512_bf16
}(call: *const HalvesCall, is_join: i32));

/// Splits values into halves, or joins them.
///
/// # Safety
/// The pointers of `call` are to `count` values each, and nothing else uses what is written.
pub(crate) unsafe fn halves(set: InstructionSet, call: &HalvesCall, is_join: bool) {
    // SAFETY: the caller guarantees it, and the processor has the set (`InstructionSet::available`).
    unsafe { halves_function(set)(call, i32::from(is_join)) }
}

/// The processor, with one of its instruction sets.
#[derive(Debug)]
struct Processor(InstructionSet);

impl Launch for Processor {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn has(&self, kernel: &str) -> bool {
        is_compiled(kernel)
    }

    unsafe fn launch(&self, kernel: &str, blocks: u32, arguments: &mut [*mut c_void]) -> Result<()> {
        let name = CString::new(kernel).map_err(|_| Error::Argument(format!("{kernel:?} is no name of a kernel")))?;
        // SAFETY: the caller guarantees the arguments; the processor has the set (`InstructionSet::available`).
        match unsafe { rows(self.0)(name.as_ptr(), blocks, arguments.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(Error::Argument(format!("the processor has no kernel {kernel}"))),
        }
    }
}

/// Returns whether the processor has a kernel of that name, with its suffix.
fn is_compiled(kernel: &str) -> bool {
    let name = kernel.strip_suffix("_f32").or_else(|| kernel.strip_suffix("_bf16"));
    name.is_some_and(|name| KERNELS.contains(&name))
}

impl Kernels {
    /// Returns the kernels of this processor, with one of [`InstructionSet::available`]; other sets are replaced by the best.
    pub fn of_processor(set: InstructionSet) -> Self {
        let set = if set.is_available() { set } else { InstructionSet::best() };
        Self::new(Arc::new(Processor(set)))
    }

    /// Returns the kernels of the best instruction set, if they have `kernel`. Those of short vectors are slower than libtorch's
    /// formulae.
    pub(crate) fn best_of_processor(kernel: &str) -> Option<&'static Self> {
        (is_compiled(kernel) && InstructionSet::best() > InstructionSet::Generic).then(|| &*BEST)
    }
}
