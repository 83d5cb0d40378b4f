//! Cores and GPUs of this machine.

use std::{fs, path::Path, thread::available_parallelism};

use neva_schemas::env;

use crate::environment;

/// Folder of the NVIDIA driver's device files, one for each GPU.
const DEVICES: &str = "/dev";

/// Cores and GPUs of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Number of cores that this process may use.
    pub(super) cores: u32,
    /// GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.
    pub(super) gpus: Vec<String>,
}

impl Machine {
    /// Returns the cores and GPUs of this machine.
    pub(super) fn local() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            gpus: match environment::variable(env::CUDA_VISIBLE_DEVICES) {
                Some(named) => named_gpus(&named),
                None => (0..count_devices(Path::new(DEVICES))).map(|gpu| gpu.to_string()).collect(),
            },
        }
    }
}

/// Returns the GPUs in a value of `CUDA_VISIBLE_DEVICES`. Like CUDA, it stops at the first invalid name.
fn named_gpus(value: &str) -> Vec<String> {
    let names = value.split(',').map(str::trim);
    let names = names.take_while(|name| !name.is_empty() && *name != "-1" && !name.eq_ignore_ascii_case("NoDevFiles"));
    names.map(str::to_owned).collect()
}

/// Counts `nvidia0`, `nvidia1`, ... in `folder`.
fn count_devices(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    names.filter(|entry| entry.file_name().to_str().is_some_and(is_gpu)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_the_ones_visible_to_cuda() {
        for (value, gpus) in [
            ("0,1", &["0", "1"][..]),
            (" 3 , GPU-8932f937", &["3", "GPU-8932f937"]),
            ("0,-1,1", &["0"]),
            ("", &[]),
            ("-1", &[]),
            ("NoDevFiles", &[]),
        ] {
            assert_eq!(named_gpus(value), gpus, "{value:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia", "null"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(count_devices(dir.path()), 3);
        assert_eq!(count_devices(&dir.path().join("missing")), 0);
    }
}
