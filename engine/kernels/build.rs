//! Compiles the kernels of the processor, once for each of its instruction sets: which one runs is chosen at run time. Lets
//! the tests of this package find libtorch.

/// Names of the sets, as in `src/processor.rs`, with the compiler's flags. Other architectures have the first one alone.
const SETS: [(&str, &[&str]); 4] = [
    ("generic", &[]),
    ("avx2", &["-mavx2", "-mfma"]),
    ("avx512", &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]),
    (
        "avx512_bf16",
        &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma"],
    ),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");
    let on_x86 = std::env::var_os("CARGO_CFG_TARGET_ARCH").is_some_and(|arch| arch == "x86_64");
    for (name, flags) in SETS.iter().take(if on_x86 { SETS.len() } else { 1 }) {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").define("VARIANT", *name).include("cpp");
        // These loops are the program's speed, in every profile. The compiler's own headers of intrinsics warn.
        build
            .opt_level(3)
            .flag("-fopenmp")
            .flag("-fno-math-errno")
            .flag("-fvisibility=hidden");
        build.flag("-Wno-psabi").flag("-Wno-uninitialized").flag("-Wno-maybe-uninitialized");
        flags.iter().for_each(|flag| {
            build.flag(flag);
        });
        build.file("cpp/rows.cpp");
        if name.starts_with("avx512") {
            build.file("cpp/attention.cpp");
        }
        build.compile(&format!("neva_kernels_{name}"));
    }
    if let Some(lib) = std::env::var_os("DEP_NEVA_TORCH_LIBTORCH_LIB") {
        // libtorch's OpenMP: one set of threads for both.
        println!("cargo::rustc-link-search=native={}", lib.to_string_lossy());
        println!("cargo::rustc-link-lib=gomp");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
}
