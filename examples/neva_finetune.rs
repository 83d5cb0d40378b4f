//! NeMo's `scripts/vlm/neva_finetune.py`, flag by flag.
//!
//!     cargo run --release --example neva_finetune -- --use_toy_model --max_steps 5
//!     cargo run --release --example neva_finetune -- --use_toy_model --devices 4 --tp_size 2 --pp_size 2
//!     cargo run --release --example neva_finetune -- --data_type llava --data_path data.json --image_folder images \
//!         --restore_path llava-1.5-7b-hf --peft lora --devices 8 --tp_size 4 --sp
//!     torchrun --no-python --nproc-per-node 8 target/release/examples/neva_finetune --devices 8 ...
//!
//! One rank trains in this process, also if torchrun started it. Several ranks are separate processes, which this one
//! starts and waits for.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use neva_engine::engine;
use neva_recipes::{llava15_7b, neva_tiny};
use neva_run::{RunError, RunOptions, run};
use neva_schemas::{
    AdamW, AutoResume, Data, DistributedDataParallelConfig, Finetune, ImageDataConfig, LoRA, Log, LrScheduler, MegatronStrategy,
    MixedPrecision, MockDataModule, Model, ModelCheckpoint, NevaPreloadedDataModule, Optim, Peft, Plugins, Precision, RestoreConfig,
    TrainerConfig,
};

/// Fine-tunes a NeVA (LLaVA-1.5) model.
#[derive(Debug, Parser)]
#[command(rename_all = "snake_case")]
struct Flags {
    /// Type of data
    #[arg(long, value_enum, default_value_t = DataType::Mock)]
    data_type: DataType,
    /// LLaVA-JSON file
    #[arg(long, required_if_eq("data_type", "llava"))]
    data_path: Option<PathBuf>,
    /// Base folder of the image paths
    #[arg(long)]
    image_folder: Option<PathBuf>,
    /// Weights to start from: a Hugging Face folder, a checkpoint, or nemo://ORG/NAME; default: fresh weights
    #[arg(long)]
    restore_path: Option<String>,
    /// Adapters to train instead of the language model
    #[arg(long, value_enum, default_value_t = Scheme::None)]
    peft: Scheme,
    /// Use a model that trains on a laptop
    #[arg(long)]
    use_toy_model: bool,
    /// Number of ranks per node
    #[arg(long, default_value_t = 1)]
    devices: u32,
    /// Number of nodes
    #[arg(long, default_value_t = 1)]
    num_nodes: u32,
    /// Tensor-parallel size
    #[arg(long, default_value_t = 1)]
    tp_size: u32,
    /// Pipeline-parallel size
    #[arg(long, default_value_t = 1)]
    pp_size: u32,
    /// Number of model chunks per pipeline rank
    #[arg(long)]
    vpp_size: Option<u32>,
    /// 1 places the vision encoder on its own pipeline rank
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1))]
    encoder_pp_size: u32,
    /// Context-parallel size
    #[arg(long, default_value_t = 1)]
    cp_size: u32,
    /// Enable sequence parallelism
    #[arg(long)]
    sp: bool,
    /// Number of samples per optimizer step
    #[arg(long, default_value_t = 128)]
    gbs: u64,
    /// Number of samples per forward pass
    #[arg(long, default_value_t = 2)]
    mbs: u64,
    /// Pack samples into rows of up to seq_length positions
    #[arg(long)]
    use_packed_sequence: bool,
    /// Maximum length of the combined text and image sequence
    #[arg(long, default_value_t = 4096)]
    seq_length: usize,
    /// Number of optimizer steps
    #[arg(long, default_value_t = 5190)]
    max_steps: u64,
    /// Peak learning rate
    #[arg(long, default_value_t = 2e-6)]
    lr: f64,
    /// Folder of all runs
    #[arg(long, default_value = "nemo_experiments")]
    log_dir: PathBuf,
    /// Name of the run
    #[arg(long, default_value = "neva_finetune")]
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DataType {
    /// Random tokens and images
    Mock,
    /// A LLaVA-JSON file
    Llava,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Scheme {
    None,
    Lora,
}

fn finetune(flags: &Flags) -> Finetune {
    let model = if flags.use_toy_model {
        neva_tiny::model()
    } else {
        llava15_7b::model()
    };
    Finetune {
        model: Model::Llava(model),
        data: data(flags),
        trainer: TrainerConfig {
            devices: flags.devices,
            num_nodes: flags.num_nodes,
            max_steps: Some(flags.max_steps),
            val_check_interval: None,
            strategy: strategy(flags),
            plugins: Plugins::MixedPrecision(MixedPrecision {
                precision: if flags.use_toy_model {
                    Precision::Fp32
                } else {
                    Precision::Bf16Mixed
                },
                ..MixedPrecision::default()
            }),
            ..TrainerConfig::default()
        },
        optim: Optim::AdamW(AdamW {
            lr: flags.lr,
            betas: (0.9, 0.95),
            lr_scheduler: LrScheduler::CosineAnnealing {
                warmup_steps: 150,
                warmup_ratio: None,
                constant_steps: 0,
                min_lr: 1e-7,
            },
            ..AdamW::default()
        }),
        peft: (flags.peft == Scheme::Lora).then(|| Peft::LoRA(LoRA::default())),
        log: Log {
            log_dir: Some(flags.log_dir.clone()),
            name: flags.name.clone(),
            ckpt: ModelCheckpoint {
                every_n_train_steps: Some(1000),
                monitor: "reduced_train_loss".into(),
                ..ModelCheckpoint::default()
            },
            ..Log::default()
        },
        resume: AutoResume {
            restore_config: flags.restore_path.clone().map(RestoreConfig::weights),
            ..AutoResume::default()
        },
        nemo_compat: false,
    }
}

fn strategy(flags: &Flags) -> MegatronStrategy {
    MegatronStrategy {
        tensor_model_parallel_size: flags.tp_size,
        pipeline_model_parallel_size: flags.pp_size,
        virtual_pipeline_model_parallel_size: flags.vpp_size,
        num_layers_in_first_pipeline_stage: (flags.encoder_pp_size == 1).then_some(0),
        context_parallel_size: flags.cp_size,
        sequence_parallel: flags.sp,
        ddp: DistributedDataParallelConfig {
            use_distributed_optimizer: true,
            ..DistributedDataParallelConfig::default()
        },
        ..MegatronStrategy::default()
    }
}

fn data(flags: &Flags) -> Data {
    let seq_length = if flags.use_toy_model {
        flags.seq_length.min(128)
    } else {
        flags.seq_length
    };
    match flags.data_type {
        DataType::Mock => Data::Mock(MockDataModule {
            seq_length,
            global_batch_size: flags.gbs,
            micro_batch_size: flags.mbs,
            use_packed_sequence: flags.use_packed_sequence,
            ..MockDataModule::default()
        }),
        DataType::Llava => Data::Preloaded(NevaPreloadedDataModule {
            paths: flags.data_path.iter().cloned().collect(),
            data_config: ImageDataConfig {
                image_folder: flags.image_folder.clone(),
                ..ImageDataConfig::default()
            },
            seq_length,
            global_batch_size: flags.gbs,
            micro_batch_size: flags.mbs,
            use_packed_sequence: flags.use_packed_sequence,
            tokenizer: flags.use_toy_model.then(|| "builtin:mistral_2k".into()),
            ..NevaPreloadedDataModule::default()
        }),
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program shows its result")]
fn main() -> ExitCode {
    let flags = Flags::parse();
    let started_by_torchrun = std::env::var_os("RANK").is_some();
    let options = if started_by_torchrun || flags.devices * flags.num_nodes == 1 {
        RunOptions::direct(engine())
    } else {
        RunOptions::local().output(|text| {
            // A closed output does not stop the run.
            let _ = std::io::stdout().write_all(text);
        })
    };
    match run(&finetune(&flags), options) {
        Ok(report) => {
            println!("{} steps, losses {:.4?}", report.steps, report.losses);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            if let RunError::Invalid(problems) = &error {
                problems.iter().for_each(|problem| eprintln!("{problem}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
