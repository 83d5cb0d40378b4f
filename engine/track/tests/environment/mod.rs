//! Programs from PyPI, installed by `make setup`.

use std::path::PathBuf;

/// Returns the Python of the virtual environment.
///
/// # Panics
/// It does not exist.
pub(crate) fn python() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("NEVA_TRACK_VENV").unwrap_or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        // `python/setup.py` uses the same name.
        let pins = include_str!("../python/requirements.txt")
            .lines()
            .filter_map(|line| line.split_once("=="));
        let name = pins.fold("track-venv".to_owned(), |name, (_, version)| format!("{name}-{version}"));
        cache.expect("HOME is set").join("neva-run").join(name)
    });
    let python = folder.join("bin/python");
    assert!(
        folder.join("neva-setup.txt").is_file() && python.exists(),
        "TensorBoard and MLflow are not in {}: run `make setup`",
        folder.display()
    );
    python
}
