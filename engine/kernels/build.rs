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
    println!("cargo::rustc-check-cfg=cfg(with_generic, with_avx2, with_avx512, with_avx512_bf16, with_threads)");
    let on_x86 = std::env::var_os("CARGO_CFG_TARGET_ARCH").is_some_and(|arch| arch == "x86_64");
    // Clang calls another OpenMP than libtorch's, so what it compiles has one thread: libtorch's formulae are better then.
    let compiler = base().get_compiler();
    let threads = compiler.is_like_gnu() && !compiler.is_like_clang();
    if threads {
        println!("cargo::rustc-cfg=with_threads");
    }
    for (name, flags) in SETS {
        // gcc 9 knows no AVX-512 BF16.
        let known = || flags.iter().all(|flag| base().is_flag_supported(flag).unwrap_or(false));
        if name != "generic" && !(on_x86 && threads && known()) {
            continue;
        }
        println!("cargo::rustc-cfg=with_{name}");
        let mut build = base();
        build.define("VARIANT", name).include("cpp").file("cpp/rows.cpp");
        if threads {
            build.flag("-fopenmp");
        }
        flags.iter().for_each(|flag| {
            build.flag(flag);
        });
        if name.starts_with("avx512") {
            build.file("cpp/attention.cpp");
        }
        build.compile(&format!("neva_kernels_{name}"));
    }
    if let Some(lib) = std::env::var_os("DEP_NEVA_TORCH_LIBTORCH_LIB") {
        if threads {
            // libtorch's OpenMP: one set of threads for both.
            println!("cargo::rustc-link-search=native={}", lib.to_string_lossy());
            println!("cargo::rustc-link-lib=gomp");
        }
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
}

/// Returns the settings of all sets.
fn base() -> cc::Build {
    let mut build = cc::Build::new();
    // These loops are the program's speed, in every profile. The compiler's own headers of intrinsics warn.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag("-fno-math-errno")
        .flag("-fvisibility=hidden");
    build.flag("-Wno-psabi").flag("-Wno-uninitialized").flag("-Wno-maybe-uninitialized");
    build
}
