//! What a rank computes on.

use super::environment::lookup;
use crate::error::{EngineError, Result};
use neva_schemas::{Accelerator, Problem, RankEnv, Starter, Trainer, env};
use neva_torch_ffi::{LogLevel, libtorch_version, load_cuda, set_deterministic_algorithms, set_gpu, set_log_level};
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
    if let Device::Cuda(gpu) = device {
        set_gpu(gpu)?;
    }
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

/// Each rank of a machine has the GPU of its number there, or the only one that it sees under srun.
fn choose(accelerator: Accelerator, gpus: i64, rank: &RankEnv) -> Result<Device> {
    let gpus = usize::try_from(gpus).unwrap_or(0);
    // srun can show each task nothing but its own GPU (--gpus-per-task), which then has number 0.
    let own = if rank.starter == Starter::Srun && gpus == 1 {
        0
    } else {
        rank.local_rank as usize
    };
    match (accelerator, gpus) {
        (Accelerator::Cpu, _) | (Accelerator::Auto, 0) => Ok(Device::Cpu),
        (Accelerator::Gpu, 0) => Err(EngineError::Machine(
            "the run asks for a GPU, libtorch sees none: point LIBTORCH at a CUDA libtorch 2.11.0, or set finetune.trainer.accelerator=cpu"
                .into(),
        )),
        (Accelerator::Auto | Accelerator::Gpu, _) if own < gpus => Ok(Device::Cuda(own)),
        _ => Err(EngineError::Run(vec![
            Problem::error(
                "finetune.trainer.accelerator",
                format!(
                    "rank {} is number {own} of its machine, where libtorch sees {gpus} GPUs: each rank needs one",
                    rank.rank
                ),
            )
            .help(format!("--set num_gpus_per_node={gpus}, or --set finetune.trainer.accelerator=cpu")),
        ])),
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

#[cfg(test)]
mod tests {
    use super::*;
    use neva_schemas::exit_class;

    #[test]
    fn a_rank_has_the_gpu_of_its_number_on_its_machine() {
        use Accelerator::{Auto, Cpu, Gpu};
        let rank = |local_rank| RankEnv {
            rank: 8 + local_rank,
            world_size: 16,
            local_rank,
            local_world_size: 8,
            ..RankEnv::single()
        };
        let device = |accelerator, gpus, local_rank| {
            choose(accelerator, gpus, &rank(local_rank)).map_err(|error| (error.class(), error.to_string()))
        };
        assert_eq!(device(Cpu, 8, 3), Ok(Device::Cpu));
        assert_eq!(device(Auto, 0, 3), Ok(Device::Cpu));
        for accelerator in [Auto, Gpu] {
            assert_eq!(device(accelerator, 8, 0), Ok(Device::Cuda(0)));
            assert_eq!(device(accelerator, 8, 7), Ok(Device::Cuda(7)));
            let (class, text) = device(accelerator, 2, 3).unwrap_err();
            assert_eq!(class, exit_class::INPUT);
            assert!(
                text.contains("rank 11 is number 3 of its machine, where libtorch sees 2 GPUs"),
                "{text}"
            );
            assert!(text.contains("--set num_gpus_per_node=2"), "{text}");
        }
        let under_srun = RankEnv {
            starter: Starter::Srun,
            ..rank(3)
        };
        assert!(matches!(choose(Gpu, 1, &under_srun), Ok(Device::Cuda(0))));
        assert!(matches!(choose(Gpu, 8, &under_srun), Ok(Device::Cuda(3))));
        let (class, text) = device(Gpu, 0, 0).unwrap_err();
        assert_eq!(class, exit_class::CLUSTER);
        assert!(text.contains("LIBTORCH"), "{text}");
    }
}
