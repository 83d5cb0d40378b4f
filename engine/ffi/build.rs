//! Compiles `cpp/` against the libtorch in `LIBTORCH`, and passes the folder of its libraries to dependents.
//!
//! A package that builds a binary reads `DEP_NEVA_TORCH_LIBTORCH_LIB` in its own build script and emits
//! `cargo::rustc-link-arg=-Wl,-rpath,{value}`, because dependents do not inherit a run path.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=cpp");
    let libtorch = match neva_libtorch::find() {
        Ok(path) => path,
        Err(problem) => {
            println!("cargo::error={problem}");
            return;
        }
    };
    let include = libtorch.join("include");
    let lib = libtorch.join("lib");
    println!("cargo::rerun-if-changed={}", include.join(neva_libtorch::VERSION_HEADER).display());

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("USE_C10D_GLOO", None)
        .include("cpp")
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .flag("-isystem")
        .flag(&include)
        // Keeps the symbols private to the binary.
        .flag("-fvisibility=hidden")
        .file("cpp/all.cpp")
        .compile("neva_torch");

    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::rustc-env=LIBTORCH_LIB={}", lib.display());
    println!("cargo::metadata=libtorch_lib={}", lib.display());
}
