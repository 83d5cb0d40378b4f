//! Sets the run path of libtorch for the binaries and tests of this package, and passes its folder to dependents. A run
//! path is not inherited, so a package that builds a program on the engine has a build script like examples/build.rs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(lib) = std::env::var_os("DEP_NEVA_TORCH_LIBTORCH_LIB") {
        let lib = lib.to_string_lossy();
        // The first is the place of libtorch in the tarball that `make dist` packs.
        println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
        println!("cargo::metadata=libtorch_lib={lib}");
    }
}
