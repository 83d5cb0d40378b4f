//! The device of a rank.

use super::environment::lookup;
use super::openmp::{default_threads, warn_of_spinning};
use crate::error::{EngineError, Result};
use neva_kernels::Kernels;
use neva_schemas::{Accelerator, AttentionBackend, Problem, RankEnv, Starter, TrainerConfig, env};
use neva_torch_ffi::{
    AttentionKernels, LogLevel, forbid_tf32, keep_freed_memory, libtorch_version, load_cuda, set_attention_kernels, set_cuda_device,
    set_deterministic_algorithms, set_log_level,
};
use tch::{Cuda, Device};

/// Version of libtorch that this program was built for, without the patch level.
const LIBTORCH: &str = "2.11.";

/// Chooses the device and configures the process for it.
///
/// # Errors
/// Another libtorch was loaded, or the run needs a GPU and there is none.
pub(super) fn set_up(trainer: &TrainerConfig, rank: &RankEnv) -> Result<Device> {
    // c10d prints C++ backtraces of errors that it also returns.
    set_log_level(LogLevel::Fatal);
    check_libtorch()?;
    let gpus = if trainer.accelerator == Accelerator::Cpu || !load_cuda()? {
        0
    } else {
        Cuda::device_count()
    };
    let device = choose(trainer.accelerator, gpus, rank)?;
    if device == Device::Cpu {
        // Before the first large tensor.
        keep_freed_memory();
    }
    if let Device::Cuda(gpu) = device {
        set_cuda_device(gpu)?;
        // Precision 32 means 24 bits of mantissa on a GPU, too.
        forbid_tf32()?;
        set_attention_kernels(kernels(trainer.strategy.attention_backend))?;
        if let Err(reason) = Kernels::prepare(device) {
            tracing::warn!("no fused kernels: libtorch computes norms, rotations, activations and FP8 casts, slower: {reason}");
        }
    }
    // cuBLAS is deterministic only with a workspace of fixed size; libtorch fails if that is not set.
    let repeatable = device == Device::Cpu || lookup(env::CUBLAS_WORKSPACE_CONFIG).is_some();
    if trainer.deterministic && !repeatable {
        tracing::warn!("losses will not be bitwise repeatable: set CUBLAS_WORKSPACE_CONFIG=:4096:8");
    }
    set_deterministic_algorithms(trainer.deterministic && repeatable)?;
    let threads = trainer.threads_per_rank.unwrap_or_else(|| default_threads(rank));
    warn_of_spinning(threads);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    Ok(device)
}

/// Returns the kernels of a GPU that a backend stands for.
fn kernels(backend: AttentionBackend) -> AttentionKernels {
    let auto = backend == AttentionBackend::Auto;
    AttentionKernels {
        flash: auto || backend == AttentionBackend::Flash,
        efficient: auto,
        cudnn: auto || backend == AttentionBackend::Fused,
        math: auto || backend == AttentionBackend::Unfused,
    }
}

/// Chooses the GPU of the local rank, or the only one visible under srun.
fn choose(accelerator: Accelerator, gpus: i64, rank: &RankEnv) -> Result<Device> {
    let gpus = usize::try_from(gpus).unwrap_or(0);
    // srun can show each task only its own GPU (--gpus-per-task), which then has number 0.
    let own = if rank.starter == Starter::Srun && gpus == 1 {
        0
    } else {
        rank.local_rank as usize
    };
    match (accelerator, gpus) {
        (Accelerator::Cpu, _) | (Accelerator::Auto, 0) => Ok(Device::Cpu),
        (Accelerator::Gpu, 0) => Err(EngineError::Machine(
            "the run needs a GPU, but libtorch sees none: point LIBTORCH at a CUDA libtorch 2.11.0, or set finetune.trainer.accelerator=cpu"
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

/// Refuses another libtorch than that of the bindings.
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
    fn each_rank_has_the_gpu_of_its_local_rank() {
        use Accelerator::{Auto, Cpu, Gpu};
        let rank = |local_rank| RankEnv {
            rank: 8 + local_rank,
            world_size: 16,
            local_rank,
            local_world_size: 8,
            ..RankEnv::single()
        };
        let device = |accelerator, gpus, local_rank| {
            choose(accelerator, gpus, &rank(local_rank)).map_err(|error| (error.exit_code(), error.to_string()))
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
