//! Lets the binaries and tests of this package find libtorch, and tells dependents where it is: a run path
//! is not inherited, so whoever builds a program on the engine has a build script like examples/build.rs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_NEVA_TORCH_LIBTORCH_LIB") {
        let lib = lib.to_string_lossy();
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo::metadata=libtorch_lib={lib}");
    }
}
