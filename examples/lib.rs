//! Programs and files to copy. Each `*.rs` beside this file is an example: `cargo run --release --example NAME`.

/// A custom model family: two files, and a line in a rank program's registry.
pub mod family {
    pub mod layout;
    pub mod model;
}

/// The Rust code of the documents, as documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../docs/containers.md")]
    mod containers {}

    #[doc = include_str!("../docs/data.md")]
    mod data {}

    #[doc = include_str!("../docs/data_check.md")]
    mod data_check {}

    #[doc = include_str!("../docs/energon.md")]
    mod energon {}

    #[doc = include_str!("../docs/executors.md")]
    mod executors {}

    #[doc = include_str!("../docs/export.md")]
    mod export {}

    #[doc = include_str!("../docs/export_check.md")]
    mod export_check {}

    #[doc = include_str!("../docs/extending.md")]
    mod extending {}

    #[doc = include_str!("../docs/fp8.md")]
    mod fp8 {}

    #[doc = include_str!("../docs/generate.md")]
    mod generate {}

    #[doc = include_str!("../docs/import.md")]
    mod import {}

    #[doc = include_str!("../docs/install.md")]
    mod install {}

    #[doc = include_str!("../docs/kubernetes.md")]
    mod kubernetes {}

    #[doc = include_str!("../docs/lora.md")]
    mod lora {}

    #[doc = include_str!("../docs/models.md")]
    mod models {}

    #[doc = include_str!("../docs/nemo-run.md")]
    mod nemo_run {}

    #[doc = include_str!("../docs/neva.md")]
    mod neva {}

    #[doc = include_str!("../docs/parallelism.md")]
    mod parallelism {}

    #[doc = include_str!("../docs/performance.md")]
    mod performance {}

    #[doc = include_str!("../docs/precision.md")]
    mod precision {}

    #[doc = include_str!("../docs/slurm.md")]
    mod slurm {}

    #[doc = include_str!("../docs/ssh.md")]
    mod ssh {}

    #[doc = include_str!("../docs/training.md")]
    mod training {}
}
