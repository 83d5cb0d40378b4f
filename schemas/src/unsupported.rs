//! Names from NeMo-Run that this version does not support.

/// A known name that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// The name on the command line or in `_target_`.
    pub name: &'static str,
    /// Suggested alternative.
    pub help: &'static str,
}

const SLURM: &str = "start the ranks in your own batch script: `srun --ntasks=N neva-run RECIPE --direct`";
const KUBERNETES: &str = "start the ranks in your own pods with torchrun: `torchrun --no-python neva-run RECIPE --direct`";

/// All unsupported names.
pub const UNSUPPORTED: &[Unsupported] = &[
    Unsupported {
        name: "slurm",
        help: SLURM,
    },
    Unsupported {
        name: "run.SlurmExecutor",
        help: SLURM,
    },
    Unsupported {
        name: "kubernetes",
        help: KUBERNETES,
    },
    Unsupported {
        name: "run.KubernetesExecutor",
        help: KUBERNETES,
    },
];

/// Returns the entry of `name`, if there is one.
pub fn unsupported(name: &str) -> Option<&'static Unsupported> {
    UNSUPPORTED.iter().find(|known| known.name == name)
}
