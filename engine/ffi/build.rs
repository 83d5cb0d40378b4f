//! Compiles `cpp/` against the libtorch that `LIBTORCH` names, and tells dependents where its libraries are.
//!
//! A package that builds a binary reads `DEP_NEVA_TORCH_LIBTORCH_LIB` in its own build script and
//! emits `cargo::rustc-link-arg=-Wl,-rpath,{that}`: a run path is never inherited.

use std::path::{Path, PathBuf};
use std::{env, fs};

const WANTED: (&str, &str) = ("2", "11");
const SOURCES: &[&str] = &["allocator", "autograd", "backward", "gloo", "hooks", "optim", "settings", "store"];

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-changed=cpp");
    let libtorch = match find_libtorch() {
        Ok(path) => path,
        Err(problem) => {
            println!("cargo::error={problem}; run `make setup`, or point LIBTORCH at a libtorch 2.11.0");
            return;
        }
    };
    let include = libtorch.join("include");
    let lib = libtorch.join("lib");
    println!("cargo::rerun-if-changed={}", include.join(VERSION_HEADER).display());

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
        // Symbols stay private to the binary, as if each were in one unnamed namespace.
        .flag("-fvisibility=hidden")
        .files(SOURCES.iter().map(|name| format!("cpp/{name}.cpp")))
        .compile("neva_torch");

    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::rustc-env=LIBTORCH_LIB={}", lib.display());
    println!("cargo::metadata=libtorch_lib={}", lib.display());
}

const VERSION_HEADER: &str = "torch/headeronly/version.h";

/// The folder that `LIBTORCH` names, once it is known to hold the version that `tch` was made for.
fn find_libtorch() -> Result<PathBuf, String> {
    let root = env::var_os("LIBTORCH").map(PathBuf::from).ok_or("LIBTORCH is not set")?;
    let header = root.join("include").join(VERSION_HEADER);
    let text = fs::read_to_string(&header)
        .map_err(|error| format!("no libtorch 2.11 in LIBTORCH={}: {}: {error}", root.display(), header.display()))?;
    let found = (number(&text, "MAJOR"), number(&text, "MINOR"));
    if found != (Some(WANTED.0), Some(WANTED.1)) {
        let (major, minor) = (found.0.unwrap_or("?"), found.1.unwrap_or("?"));
        return Err(format!("LIBTORCH={} holds libtorch {major}.{minor}, not 2.11", root.display()));
    }
    library(&root, "libtorch_cpu.so")?;
    library(&root, "libc10.so")?;
    Ok(root)
}

fn library(root: &Path, name: &str) -> Result<(), String> {
    let path = root.join("lib").join(name);
    if path.exists() {
        Ok(())
    } else {
        Err(format!("LIBTORCH={} has no lib/{name}", root.display()))
    }
}

/// The number in `#define TORCH_VERSION_{part} 11`.
fn number<'a>(header: &'a str, part: &str) -> Option<&'a str> {
    header.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some("#define") && words.next().and_then(|name| name.strip_prefix("TORCH_VERSION_")) == Some(part);
        if is_it { words.next() } else { None }
    })
}
