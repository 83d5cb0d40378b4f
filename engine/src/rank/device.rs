//! What a rank computes on.

use super::environment::lookup;
use crate::error::{EngineError, Result};
use neva_schemas::{Accelerator, Problem, RankEnv, Trainer, env};
use neva_torch_ffi::{LogLevel, libtorch_version, load_cuda, set_deterministic_algorithms, set_log_level};
use tch::{Cuda, Device};

/// Version of libtorch that this program was made for, without the patch level.
const LIBTORCH: &str = "2.11.";

/// Chooses the device and sets the process up for it.
///
/// # Errors
/// Another libtorch was loaded, or the run asks for a GPU that is not there.
pub(super) fn set_up(trainer: &Trainer, rank: &RankEnv) -> Result<Device> {
    // c10d writes C++ backtraces of errors that it also returns.
    set_log_level(LogLevel::Fatal);
    check_libtorch()?;
    let gpus = if trainer.accelerator == Accelerator::Cpu || !load_cuda()? {
        0
    } else {
        Cuda::device_count()
    };
    let device = choose(trainer.accelerator, gpus, rank)?;
    // cuBLAS repeats its bits only with a workspace of fixed size, and libtorch fails without that promise.
    let repeatable = device == Device::Cpu || lookup(env::CUBLAS_WORKSPACE_CONFIG).is_some();
    if trainer.deterministic && !repeatable {
        tracing::warn!("losses will not repeat bit for bit: set CUBLAS_WORKSPACE_CONFIG=:4096:8 for that");
    }
    set_deterministic_algorithms(trainer.deterministic && repeatable)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = trainer
        .threads_per_rank
        .unwrap_or_else(|| (cores / rank.local_world_size.max(1) as usize).max(1) as u32);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    Ok(device)
}

fn choose(accelerator: Accelerator, gpus: i64, rank: &RankEnv) -> Result<Device> {
    match accelerator {
        Accelerator::Cpu => Ok(Device::Cpu),
        Accelerator::Auto if gpus == 0 => Ok(Device::Cpu),
        Accelerator::Gpu if gpus == 0 => Err(EngineError::Machine(
            "the run asks for a GPU, libtorch sees none: point LIBTORCH at a CUDA libtorch 2.11.0, or set finetune.trainer.accelerator=cpu"
                .into(),
        )),
        // Several ranks talk through Gloo, which carries host memory.
        _ if rank.world_size > 1 => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.trainer.accelerator",
                format!("{} ranks on GPUs: this version trains on one GPU, or on CPU ranks", rank.world_size),
            )
            .help("--set num_gpus_per_node=1, or --set finetune.trainer.accelerator=cpu"),
        ])),
        _ => Ok(Device::Cuda(0)),
    }
}

/// Refuses to run on another libtorch than the one that the bindings were made for.
pub(super) fn check_libtorch() -> Result<String> {
    let version = libtorch_version()?;
    if version.starts_with(LIBTORCH) {
        Ok(version)
    } else {
        Err(EngineError::Machine(format!(
            "libtorch {version} was loaded, this program needs {LIBTORCH}0: run `make setup`, or point LIBTORCH there"
        )))
    }
}
