//! The CUDA C++ of the kernels, one program.

/// Files of the program, in order.
const FILES: [(&str, &str); 6] = [
    ("numbers.cu", include_str!("../cu/numbers.cu")),
    ("quantize.cu", include_str!("../cu/quantize.cu")),
    ("blocks.cu", include_str!("../cu/blocks.cu")),
    ("rms_norm.cu", include_str!("../cu/rms_norm.cu")),
    ("rope.cu", include_str!("../cu/rope.cu")),
    ("swiglu.cu", include_str!("../cu/swiglu.cu")),
];

/// Kernels. Each exists for [`SUFFIXES`], and `transpose` for bytes alone.
pub const KERNELS: [&str; 15] = [
    "amax",
    "quantize_e4m3",
    "quantize_e5m2",
    "quantize_rows32_e4m3",
    "quantize_rows32_e5m2",
    "quantize_rows_e4m3",
    "quantize_rows_e5m2",
    "quantize_squares_e4m3",
    "rms_norm",
    "rms_norm_input_grad",
    "rms_norm_weight_grad",
    "rope",
    "swiglu",
    "swiglu_grad",
    "transpose",
];

/// Data types of real numbers, by the suffix of a kernel's name.
pub const SUFFIXES: [&str; 3] = ["f32", "bf16", "f16"];

/// Threads of a block, of every kernel (`THREADS` in `numbers.cu`).
pub const THREADS: u32 = 256;

/// Returns the program. A compiler names the files in its messages.
pub fn program() -> String {
    FILES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}")).collect()
}

/// Returns the names of all kernels in the program.
pub fn names() -> impl Iterator<Item = String> {
    let suffixes = |kernel: &str| if kernel == "transpose" { &["u8"][..] } else { &SUFFIXES };
    KERNELS
        .iter()
        .flat_map(move |kernel| suffixes(kernel).iter().map(move |suffix| format!("{kernel}_{suffix}")))
}
