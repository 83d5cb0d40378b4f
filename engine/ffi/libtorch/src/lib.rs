//! Where libtorch is.

use std::path::{Path, PathBuf};
use std::{env, fs};

const WANTED: (&str, &str) = ("2", "11");

/// The header that tells the version, below `include`.
pub const VERSION_HEADER: &str = "torch/headeronly/version.h";

/// The folder that `LIBTORCH` names, once it is known to hold the version that `tch` was made for.
///
/// # Errors
/// What is missing there, and what to type.
pub fn find() -> Result<PathBuf, String> {
    look().map_err(|problem| format!("{problem}; run `make setup`, or point LIBTORCH at a libtorch 2.11.0"))
}

fn look() -> Result<PathBuf, String> {
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
