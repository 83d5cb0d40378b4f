//! Compilation for GPUs by NVRTC, which needs none.

use neva_kernels::compile;
use neva_kernels::source::names;
use std::path::PathBuf;

/// Returns the folder where `make setup` puts NVRTC.
///
/// # Panics
/// It does not exist.
fn nvrtc() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("NEVA_NVRTC").unwrap_or_else(|| {
        let cache = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let cache = cache.or_else(|| Some(variable("HOME")?.join(".cache")));
        // `nvrtc/setup.py` uses the same name.
        let version = include_str!("../nvrtc/version.txt").trim();
        cache.expect("HOME is set").join("neva-run").join(format!("nvrtc-{version}"))
    });
    assert!(
        folder.join("libnvrtc.so.13").is_file(),
        "NVRTC is not in {}: run `make setup`",
        folder.display()
    );
    folder
}

#[test]
fn every_kernel_compiles_for_ampere_hopper_and_blackwell() {
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        let code = compile(&[nvrtc()], architecture).unwrap();
        assert_eq!(&code[..4], b"\x7fELF", "{architecture}");
        for name in names() {
            // The symbol's name ends with a null character.
            let symbol = format!("\0{name}\0");
            let found = code.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes());
            assert!(found, "{name} is not in the code for {architecture}");
        }
    }
}

#[test]
fn a_gpu_that_nvrtc_does_not_know_is_an_error_and_no_panic() {
    let error = compile(&[nvrtc()], "sm_1").unwrap_err();
    assert!(error.contains("NVRTC for sm_1:"), "{error}");
}
