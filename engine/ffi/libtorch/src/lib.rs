//! Finds the libtorch folder.

use std::path::{Path, PathBuf};
use std::{env, fs};

const REQUIRED_VERSION: (&str, &str) = ("2", "11");

/// Path of the header with the version, relative to `include`.
pub const VERSION_HEADER: &str = "torch/headeronly/version.h";

/// Returns the folder in `LIBTORCH` after checking that it contains the version that `tch` needs.
///
/// # Errors
/// Returns a text that says what is missing and what to type.
pub fn find() -> Result<PathBuf, String> {
    find_checked().map_err(|problem| format!("{problem}; run `make setup`, or point LIBTORCH at a libtorch 2.11.0"))
}

fn find_checked() -> Result<PathBuf, String> {
    let root = env::var_os("LIBTORCH").map(PathBuf::from).ok_or("LIBTORCH is not set")?;
    let header = root.join("include").join(VERSION_HEADER);
    let text = fs::read_to_string(&header)
        .map_err(|error| format!("no libtorch 2.11 in LIBTORCH={}: {}: {error}", root.display(), header.display()))?;
    let found = (version_number(&text, "MAJOR"), version_number(&text, "MINOR"));
    if found != (Some(REQUIRED_VERSION.0), Some(REQUIRED_VERSION.1)) {
        let (major, minor) = (found.0.unwrap_or("?"), found.1.unwrap_or("?"));
        return Err(format!("LIBTORCH={} contains libtorch {major}.{minor}, not 2.11", root.display()));
    }
    check_library(&root, "libtorch_cpu.so")?;
    check_library(&root, "libc10.so")?;
    Ok(root)
}

fn check_library(root: &Path, name: &str) -> Result<(), String> {
    let path = root.join("lib").join(name);
    if path.exists() {
        Ok(())
    } else {
        Err(format!("LIBTORCH={} has no lib/{name}", root.display()))
    }
}

/// Returns the number in `#define TORCH_VERSION_{component} 11`.
fn version_number<'a>(header: &'a str, component: &str) -> Option<&'a str> {
    header.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let matches =
            words.next() == Some("#define") && words.next().and_then(|name| name.strip_prefix("TORCH_VERSION_")) == Some(component);
        if matches { words.next() } else { None }
    })
}
