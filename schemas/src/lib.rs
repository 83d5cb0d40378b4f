//! Plain, serializable types that describe a run.
//!
//! This crate owns the typed recipe graph, its validation, the launch plan and the contract between
//! launcher and rank. It does no I/O, reads no environment and no clock, and links no tensor library, so
//! every other crate can depend on it.
#![forbid(unsafe_code)]

mod attention_backend;
mod callback;
mod contract;
mod conversation_template;
mod custom_data;
mod custom_family;
mod cut;
mod data;
mod data_modules;
mod description;
mod docker;
mod effective_precision;
mod energon;
mod engine;
mod executor;
mod experiment;
mod export;
mod finetune;
mod generate;
mod kubernetes;
mod layers;
mod log;
mod model;
mod name;
mod node_path;
mod openmp;
mod optim;
mod packager;
mod packing;
mod parallel;
mod peft;
mod period;
mod plan;
mod precision;
mod rank_env;
mod recipe;
mod recompute;
mod requirement;
mod resume;
mod schedule;
mod schema;
mod script;
mod secret;
mod slurm;
mod stop_signal;
mod strategy;
mod sweep;
mod task;
mod text_schema;
mod trainer;
mod tunnel;
mod unsupported;
mod validate;
mod variable;
mod workspace;

pub use attention_backend::AttentionBackend;
pub use callback::{CallbackConfig, CustomCallback, EarlyStoppingConfig, METRICS, MetricMode};
pub use contract::{
    EFFECTS_FILE, ExitClass, FAILURES_FILE, METRICS_FILE, PARAMETERS_FILE, PLAN_FILE, PROFILE_FILE, REPORT_FILE, RankFailure, RunReport,
    env, exit_class,
};
pub use conversation_template::ConversationTemplateConfig;
pub use custom_data::CustomData;
pub use custom_family::CustomFamily;
pub use data::Data;
pub use data_modules::{
    ImageDataConfig, ImageProcessMode, ImageTextTokenization, ImageTokenPosition, MockDataModule, NevaPreloadedDataModule, OnError,
};
pub use description::{Decoder, Freezing, ModelDescription, Projector, VisionTower};
pub use docker::{DockerExecutorConfig, Ulimit, Volume, memory_size};
pub use effective_precision::{EffectivePrecision, PartPrecision};
pub use energon::{
    CustomTaskEncoder, EnergonMultiModalDataModule, ImageToken, MultiModalSampleConfig, MultiModalTaskEncoder, SampleLoader, TaskEncoder,
};
pub use engine::Engine;
pub use executor::{ExecutorConfig, LocalExecutorConfig};
pub use experiment::{ExperimentConfig, MAX_PARALLEL};
pub use export::{ExportDtype, ExportFormat, ExportRequest, MAX_SHARD_SIZE, MergeRequest, NameLayout, Reader, WeightedAdapter};
pub use finetune::Finetune;
pub use generate::{GenerateRequest, GenerateSource};
pub use kubernetes::{KubernetesExecutorConfig, KubernetesKind, KubernetesVolume, NfsVolume, VolumeSource, is_dns_label, is_dns_name};
pub use layers::{LayerSplit, UnevenLayers};
pub use log::{Log, MlflowLogger, ModelCheckpoint};
pub use model::{
    Activation, FeatureLayers, FeatureSelect, ImageDefaults, LanguageModel, LayerType, LlavaModel, Model, ProjectorType, RopeScaling,
    RopeType, TextConfig, TextModelType, VisionConfig, VisionModelType, VisionNorm,
};
pub use name::MAX_NAME_LENGTH;
pub use openmp::{spin_count, thread_count};
pub use optim::{AdamW, Lion, Optim, ParamGroup, Sgd};
pub use packager::{
    GitArchivePackagerConfig, HybridPackagerConfig, NoPackagerConfig, OutsideCommit, PackagerConfig, PatternPackagerConfig, TextOrList,
};
pub use packing::{Packing, PackingOversize};
pub use parallel::{MeshCoordinates, ParallelSizes};
pub use peft::{DropoutPosition, LoRA, LoraInit, Peft, Quantization};
pub use period::Period;
pub use plan::{LaunchPlan, PLAN_FORMAT};
pub use precision::{
    Fp8, Fp8AmaxComputeAlgo, Fp8Format, Fp8Recipe, LossScale, MAX_FP8_AMAX_HISTORY, MAX_FP8_MARGIN, MixedPrecision, Precision, TorchDtype,
};
pub use rank_env::{RankEnv, Starter};
pub use recipe::{PeftScheme, RecipeArgs, Run};
pub use recompute::{RecomputeGranularity, RecomputeMethod, RecomputeModule};
pub use requirement::Requirement;
pub use resume::{AutoResume, RestoreConfig};
pub use schedule::{LrScheduler, RampType};
pub use schema::{SCHEMAS, SchemaEntry};
pub use script::{MAX_SCRIPT_LENGTH, Script, ScriptPlan};
pub use secret::{is_secret_name, mask_secrets};
pub use slurm::{
    ContainerRuntime, LauncherConfig, MAX_REQUEUES, SlurmArray, SlurmExecutorConfig, SlurmJobDetails, SlurmParameter, SlurmSignal,
    TorchrunConfig, time_limit_s,
};
pub use stop_signal::{SIGNAL_MASKS_FILE, SignalMasks, StopSignal};
pub use strategy::{CpCommType, DistributedDataParallelConfig, MegatronStrategy, VisionPlacement};
pub use sweep::{SweepMode, SweepOrder};
pub use task::{Dependency, Task, TaskSpec, When};
pub use trainer::{Accelerator, LossNormalization, NanPolicy, Plugins, TrainerConfig};
pub use tunnel::{LocalTunnelConfig, SshProgram, SshTunnelConfig, TunnelConfig};
pub use unsupported::{UNSUPPORTED, Unsupported, unsupported};
pub use validate::{Problem, Severity, Validate};
pub use variable::SET_BY_LAUNCHER;
pub use workspace::{DOCKER, KUBERNETES, LOCAL, SLURM, WorkspaceConfig};
